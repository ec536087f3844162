"""Everything tied to an account: keys, tokens, and limits on requests."""
