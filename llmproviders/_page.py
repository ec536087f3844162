"""What the page of a chat plugin says: the tokens that its form wants."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import NamedTuple

from ._redact import Secret, conceal
from ._signals import ignoring
from ._status import is_challenge
from .errors import BlockedError, ProtocolError


class Page(NamedTuple):
    """A page's tokens, and the cookies that they are tied to as a header says them."""

    nonce: Secret
    post_id: str
    cookie: Secret


def read_page(body: bytes, cookies: Mapping[str, str], *, base_url: str) -> Page:
    """The tokens in a page; they are concealed from here on.

    Args:
        body: the page.
        cookies: that came with it.
        base_url: where it is, for the messages.

    Raises:
        BlockedError: a browser challenge stands in its place.
        ProtocolError: it has no tokens.
    """
    if is_challenge(body):
        raise challenged(base_url)
    widget = _Widget()
    # Some releases of Python assert that a page has no marked section of a kind unknown to
    # them; what stands before it has been read.
    with ignoring(AssertionError):
        widget.feed(body.decode(errors="replace"))
    missing = [name for name in _Widget.NEEDED if not widget.found.get(name)]
    if missing:
        raise ProtocolError(
            f"the page of {base_url} has no {' and no '.join(missing)}; "
            "the site has changed, or a challenge page was served"
        )
    nonce, post_id = (widget.found[name] for name in _Widget.NEEDED)
    for value in (nonce, *cookies.values()):
        conceal(value)
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return Page(Secret(nonce), post_id, Secret(cookie))


def challenged(base_url: str) -> BlockedError:
    """What stands before an address where a browser is asked to prove itself."""
    return BlockedError(f"a browser challenge stands before {base_url}")


class _Widget(HTMLParser):
    """Finds the attributes of the chat widget's element."""

    NEEDED = ("data-nonce", "data-post-id")

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        here = {name: value for name, value in attrs if name in self.NEEDED and value}
        if len(here) > len(self.found):
            self.found = here
