"""The command-line interface, which composes configurations, runs commands and reports errors."""
