"""The one place that makes a foreign text harmless to a terminal; pure.

A terminal obeys what is written to it: control characters and escape sequences set its title, fill
the clipboard, move the cursor over lines that stand already; marks of direction show a line in
another order than it has. What comes from a service may contain all of them. Each such character
is replaced on its own, so that it makes no difference how a text was cut into pieces.
"""

from __future__ import annotations

import re

#: C0 but tab and line feed (a carriage return may stand before a line feed), DEL, C1, the marks
#: that override or isolate a direction, halves of characters, and the tags that nobody sees.
_ACTING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u206f\ud800-\udfff\ufffe\uffff"
    "\U000e0000-\U000e007f]|\r(?!\n)"
)

_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")


def printable(text: str) -> str:
    r"""Text in which no character acts on a terminal; each that would is shown as its escape.

    Lines and tabs stay. The order of the letters of right-to-left scripts is theirs, and stays.

    >>> print(printable("\x1b]0;a title\x07 and \u202e a turn"))
    \x1b]0;a title\x07 and \u202e a turn
    """
    return _ACTING.sub(_escape, text)


def one_line(value: object) -> str:
    r"""The same, and a line break or tab becomes a space.

    >>> one_line("two\r\nlines")
    'two lines'
    """
    return printable(_BREAKS.sub(" ", str(value)))


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()
