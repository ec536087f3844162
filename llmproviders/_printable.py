"""Make text from elsewhere harmless to a terminal.

A terminal obeys what is written to it: control characters and escape sequences set its title, fill
the clipboard or overwrite earlier lines, and direction marks change the order in which a line is
shown. Text from a service may contain all of them. Each such character is replaced on its own, so
the result does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

import re
from functools import partial

#: C0 except tab and line feed (a carriage return may precede a line feed), DEL, C1, the marks that
#: override or isolate a direction, lone surrogates, and the invisible tag characters.
_ACTING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u206f\ud800-\udfff\ufffe\uffff"
    "\U000e0000-\U000e007f]|\r(?!\n)"
)

_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")


def printable(text: str) -> str:
    r"""Replace each character that a terminal would act on with its escape.

    Line breaks and tabs are kept, and so is the order of letters in right-to-left scripts.

    >>> print(printable("\x1b]0;a title\x07 and \u202e a turn"))
    \x1b]0;a title\x07 and \u202e a turn
    """
    return _ACTING.sub(_escape, text)


def one_line(value: object) -> str:
    r"""Do the same, and turn each line break or tab into a space.

    >>> one_line("two\r\nlines")
    'two lines'
    """
    return printable(_BREAKS.sub(" ", str(value)))


def be_brief(error: BaseException, words: str | None = None) -> None:
    """Make IPython print ``words`` instead of the error's traceback.

    Args:
        error: the error.
        words: what to print; None: that it was stopped, unless there are words already.
    """
    if words is not None or not hasattr(error, "_render_traceback_"):
        lines = (words or "Stopped.",)
        error._render_traceback_ = partial(list, lines)  # type: ignore[attr-defined]


def whole_units(text: str | None) -> str | None:
    r"""Join the halves of characters; a half that stays alone becomes U+FFFD, which can be printed.

    >>> whole_units("no \ud83d\ude00 \ud83d")
    'no 😀 �'
    """
    if text is None or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()
