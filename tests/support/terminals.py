"""What a terminal obeys, as tests look for it, and a text that has all of it."""

from __future__ import annotations

import re

ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
"""Control characters but tab and line feed, what turns the direction of text, tags."""

HOSTILE = (
    "clip\x1b]52;c;aGk=\x07 title\x1b]0;owned\x1b\\ erase\x1b[2K\x1b[1A dcs\x1bP1$r\x1b\\"
    " apc\x1b_x\x1b\\ pm\x1b^y\x1b\\ sos\x1bXz\x1b\\ c1\x9b31m\x9d0;owned\x9c\x85"
    " bidi\u202egnp\u2066x back\rover\x08\x08 bell\x07 nul\x00 del\x7f tag\U000e0041 end"
)
"""An example of each kind, printable words between them."""
