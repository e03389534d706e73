"""What is published, and what it is like to install it: `nox -s package` runs these."""
