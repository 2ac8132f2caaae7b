"""The command line: one module a group of commands; `app.py` wires them and catches errors."""
