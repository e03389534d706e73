"""The command line: its options, what it measures, what it prints, and its real processes."""
