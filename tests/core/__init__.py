"""Tests of the ledger, the values and the codecs, which need no event loop."""
