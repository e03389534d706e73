"""The programs of examples/, run as their users run them."""
