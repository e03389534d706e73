"""Tests of the pool on in-memory connections under a virtual clock."""
