"""What belongs to an account: keys, tokens, and requests at a time."""
