"""The command line: from arguments to a configuration, from an error to one line and an exit code."""
