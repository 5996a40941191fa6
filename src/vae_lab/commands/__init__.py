"""The commands; each module defines `run`, which the entry points and `cli.launch` call."""
