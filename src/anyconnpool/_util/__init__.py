"""Small tools that know nothing of pools."""
