"""What each command does: `run`, called by the entry points and by `cli.launch`."""
