"""Tens of thousands of calls from many threads, some with faults, and the resources left behind."""
