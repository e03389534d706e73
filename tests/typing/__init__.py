"""Uses of the public API that type checkers must take, and misuses that they must refuse."""
