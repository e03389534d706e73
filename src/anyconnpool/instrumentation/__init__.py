"""Observers that export the events and figures of pools: a module for each tool.

None of them is imported by the package itself. Each needs the extra of its name.
"""
