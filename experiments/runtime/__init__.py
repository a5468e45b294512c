"""Services of the process and its machine: devices, files, locks, signals, exits, versions."""
