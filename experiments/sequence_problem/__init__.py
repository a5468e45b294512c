"""The sequence problem command: training and evaluation on one problem of each shape."""
