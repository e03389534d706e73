"""The tasks of a running pool, which carry out what the core decides."""
