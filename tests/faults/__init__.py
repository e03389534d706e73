"""The fault proxy itself, and every exchange under each of its faults."""
