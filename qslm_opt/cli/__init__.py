"""The command line: Typer, one group a file. Nothing heavy is imported before a command needs it."""
