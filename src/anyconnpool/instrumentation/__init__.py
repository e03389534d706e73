"""Observers that pass on what pools tell to other people's tools: a module for each tool.

None is imported without being asked for. Each needs the extra of its name.
"""
