"""The decisions: synchronous, without I/O, without a clock and without AnyIO."""
