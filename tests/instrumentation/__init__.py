"""What passes on the events of pools to the tools of others, tested with those tools."""
