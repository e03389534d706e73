"""Tests of the machine, the values and the codecs, which need no event loop."""
