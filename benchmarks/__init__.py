"""Measurements of the library, side by side with what else there is; run by hand and by CI."""
