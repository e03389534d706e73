"""Own byte streams on real sockets, and the synchronous part of TLS."""
