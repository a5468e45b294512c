"""The command-line interface that all commands share: flags, errors, tables, progress."""
