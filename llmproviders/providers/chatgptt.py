"""ChatGptt: a WordPress site with a chat plugin; needs tokens from its page, then a form."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from itertools import chain, islice
from typing import NamedTuple

from .._account.settings import USER_AGENT
from .._http.decoding import Document, expect
from .._http.error_map import error_of, message_of
from .._http.error_rules import is_challenge
from .._http.types import HTTPRequest, HTTPResponse
from .._redact import Redacted, Secret, conceal
from .._request import ChatRequest
from .._signals import ignoring
from ..errors import AuthenticationError, BlockedError, LLMError, ProtocolError
from ..messages import fold
from ..provider import Fetch, Provider
from ..results import FinishReason
from ._chat_completions import decode_answer, parse_chat


class WidgetTokens(NamedTuple):
    """A page's tokens, and the ``Cookie`` header that they are tied to."""

    nonce: Secret
    post_id: str
    cookie: Secret


def read_page(body: bytes, cookies: Mapping[str, str], *, base_url: str) -> WidgetTokens:
    """Find the tokens in a page, and mask them in messages from now on.

    Args:
        body: the page.
        cookies: the cookies that came with it.
        base_url: its address, for the messages.

    Raises:
        BlockedError: it is a browser challenge.
        ProtocolError: it has no tokens.
    """
    if is_challenge(body):
        raise challenged(base_url)
    widget = _Widget()
    # Some Python releases fail an assertion on unknown marked sections; everything before one has
    # been read by then.
    with ignoring(AssertionError):
        widget.feed(body.decode(errors="replace"))
    missing = [name for name in _Widget.NEEDED if not widget.found.get(name)]
    if missing:
        raise ProtocolError(
            f"the page of {base_url} has no {' and no '.join(missing)}; the site has changed, or a "
            "challenge page was served"
        )
    nonce, post_id = (widget.found[name] for name in _Widget.NEEDED)
    for value in (nonce, *cookies.values()):
        conceal(value)
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return WidgetTokens(Secret(nonce), post_id, Secret(cookie))


def challenged(base_url: str) -> BlockedError:
    """The error for a browser challenge in front of an address."""
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


_PAGE_LIMIT = 4 * 1024 * 1024

_STALE_ANSWERS = (b"-1", b"0")

_STALE_WORDS = ("nonce", "session", "expired", "security check")


class ChatGptt(Provider):
    """chatgptt.me's chat; no key. The site is currently behind a browser challenge.

    >>> ChatGptt().get_model(None)
    'gpt-4o'
    """

    url = "https://chatgptt.me"
    api_endpoint = f"{url}/wp-admin/admin-ajax.php"
    working = False
    default_model = "gpt-4o"
    models = ("gpt-4", "gpt-4o", "gpt-4o-mini")
    _page: WidgetTokens | None = None

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """Fill the chat plugin's form with the tokens of its page."""
        self.sampling(request)
        page = self._page
        if page is None:
            page = self._page = self._fetch_page(fetch)
        form = {
            "_wpnonce": page.nonce,
            "post_id": page.post_id,
            "url": self.base_url,
            "action": "wpaicg_chat_shortcode_message",
            "message": fold(request.messages),
            "bot_id": "0",
            "chatbot_identity": "shortcode",
            "wpaicg_chat_client_id": secrets.token_hex(5),
            "wpaicg_chat_history": "",
        }
        headers = self._headers()
        if page.cookie:
            headers["Cookie"] = page.cookie
        # WordPress labels everything but the plugin's own replies as text/html.
        address = f"{self.base_url}/wp-admin/admin-ajax.php"
        return HTTPRequest("POST", address, headers=headers, form=form, accept="html")

    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Read a JSON object with the whole text, or a stream where the site streams."""
        events = reply.events()
        head = list(islice(events, 1))
        if not head or type(head[0]) is not Document:
            yield from parse_chat(reply, events=chain(head, events))
            return
        body = b"".join(head).strip()
        if body in _STALE_ANSWERS:
            raise _stale(f"the site answered {body.decode()}")
        if is_challenge(body):
            raise challenged(self.base_url)
        answer = expect(decode_answer(body), dict, "an object")
        data = answer.get("data")
        if answer.get("status") != "success" or not isinstance(data, str):
            said = message_of(answer)
            if said is None:
                answer = {**answer, "message": "without a reason"}
            elif any(word in said.lower() for word in _STALE_WORDS):
                raise _stale(said)
            raise error_of(answer)
        yield data
        yield FinishReason("stop", raw="")

    def recover(
        self,
        error: LLMError,
        call: HTTPRequest | None,
        request: ChatRequest,
        fetch: Fetch,
    ) -> str | None:
        """Drop tokens that the site refused, so that its page is fetched again."""
        if call is None or not isinstance(error, AuthenticationError):
            return None
        page = self._page
        if page is not None and call.form is not None and call.form["_wpnonce"] == page.nonce:
            self._page = None
        return "page"

    def describe_error(self, error: LLMError, request: ChatRequest) -> LLMError:
        """Say that fresh page tokens were refused as well."""
        if not isinstance(error, AuthenticationError):
            return error
        return AuthenticationError(
            f"{self.name} refused the tokens of its own page, fresh ones too: {error}",
            status_code=error.status_code,
            request_id=error.request_id,
            detail=error.detail,
        )

    def _headers(self) -> dict[str, str]:

        return {
            "accept": "application/json",
            "accept-encoding": "gzip, deflate",
            "origin": self.base_url,
            "referer": Redacted(f"{self.base_url}/chat"),
            "user-agent": USER_AGENT,
        }

    def _fetch_page(self, fetch: Fetch) -> WidgetTokens:

        reply = fetch(
            HTTPRequest("GET", f"{self.base_url}/", headers=self._headers(), accept="html")
        )
        try:
            body = reply.read(_PAGE_LIMIT)
            cookies = reply.cookies
            reply.finish()
        finally:
            reply.close()
        return read_page(body, cookies, base_url=self.base_url)


def _stale(said: str) -> AuthenticationError:
    return AuthenticationError(
        f"the site no longer accepts the page's tokens ({said})", detail=said
    )
