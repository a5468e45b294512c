"""The process and its machine: devices, files, locks, signals, versions."""
