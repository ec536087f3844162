"""Tens of thousands of calls from many threads, some of which go wrong, and what they leave."""
