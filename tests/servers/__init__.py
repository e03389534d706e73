"""The pool against programs that others wrote."""
