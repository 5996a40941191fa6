"""Command line: composes the configuration, runs a command, and reports errors with exit codes."""
