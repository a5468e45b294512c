"""Published figures and tables, reproduced and checked."""
