"""Tests on real loopback sockets."""
