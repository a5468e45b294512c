"""The command line of all commands: flags, their parsers, errors, tables, progress."""
