"""One open byte stream: what can be known of it, how it is read, written and closed."""
