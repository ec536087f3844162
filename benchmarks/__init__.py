"""Measurements of the library beside others, run by hand and by CI."""
