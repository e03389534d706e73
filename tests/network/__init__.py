"""The pool and its server on two ends of a cable that is cut: dead peers that say nothing."""
