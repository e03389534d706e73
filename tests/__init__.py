"""The tests of anyconnpool."""
