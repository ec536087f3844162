"""ChatGptt: a WordPress site with a chat plugin; tokens from its page, then a form."""

from __future__ import annotations

from ..errors import AuthenticationError, LLMError, ProtocolError, ServerError
from ..provider import USER_AGENT, Provider

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._page import Page
    from ..provider import Call, Fetch, Reply, Request

_PAGE_LIMIT = 4 * 1024 * 1024
_STALE_ANSWERS = (b"-1", b"0")
_STALE_WORDS = ("nonce", "session", "expired", "security check")


class ChatGptt(Provider):
    """chatgptt.me's chat; no key. Its site has been behind a browser challenge.

    >>> ChatGptt().get_model(None)
    'gpt-4o'
    """

    url = "https://chatgptt.me"
    api_endpoint = f"{url}/wp-admin/admin-ajax.php"
    working = False
    default_model = "gpt-4o"
    models = ("gpt-4", "gpt-4o", "gpt-4o-mini")
    _modules = ("secrets", "._chat_completions", "._page")

    _page: Page | None = None

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Fill the chat plugin's form with the tokens of its page."""
        import secrets

        from .._call import Call
        from ..messages import fold

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
        # WordPress says text/html of whatever is not a reply of the plugin.
        address = f"{self.base_url}/wp-admin/admin-ajax.php"
        return Call("POST", address, headers=headers, form=form, accept="html")

    def parse(self, reply: Reply) -> Iterator[str]:
        """A JSON object with the whole text, or a stream where the site has streaming on."""
        from .._chat_completions import parse_chat
        from .._lines import decode_json
        from .._page import challenged
        from .._status import is_challenge, message_of
        from ..results import FinishReason

        if reply.content_type == "text/event-stream":
            yield from parse_chat(reply)
            return
        body = reply.read().strip()
        if body in _STALE_ANSWERS:
            raise _stale(f"the site answered {body.decode()}")
        if is_challenge(body):
            raise challenged(self.base_url)
        answer: Any = decode_json(body)
        if not isinstance(answer, dict):
            raise ProtocolError(f"the reply is {type(answer).__name__} where an object was due")
        data = answer.get("data")
        if answer.get("status") != "success" or not isinstance(data, str):
            said = message_of(answer) or "without a reason"
            if any(word in said.lower() for word in _STALE_WORDS):
                raise _stale(said)
            raise ServerError(f"the site reports an error: {said}", detail=said)
        yield data
        yield FinishReason("stop", raw="")

    def mend(
        self,
        error: LLMError,
        call: Call | None,
        request: Request,
        fetch: Fetch,
    ) -> str | None:
        """Forget tokens that the site no longer takes, so that its page is fetched anew."""
        if call is None or not isinstance(error, AuthenticationError):
            return None
        page = self._page
        if page is not None and call.form is not None and call.form["_wpnonce"] == page.nonce:
            self._page = None
        return "page"

    def explain(self, error: LLMError, request: Request) -> LLMError:
        """Say that fresh page tokens were refused, too."""
        if not isinstance(error, AuthenticationError):
            return error
        return AuthenticationError(
            f"{self.name} refused the tokens of its own page, fresh ones too: {error}",
            status_code=error.status_code,
            request_id=error.request_id,
            detail=error.detail,
        )

    def _headers(self) -> dict[str, str]:
        from .._redact import Redacted

        return {
            "accept": "application/json",
            "accept-encoding": "gzip, deflate",
            "origin": self.base_url,
            "referer": Redacted(f"{self.base_url}/chat"),
            "user-agent": USER_AGENT,
        }

    def _fetch_page(self, fetch: Fetch) -> Page:
        from .._call import Call
        from .._page import read_page

        reply = fetch(Call("GET", f"{self.base_url}/", headers=self._headers(), accept="html"))
        try:
            body = reply.read(_PAGE_LIMIT)
            cookies = reply.cookies
            reply.finish()
        finally:
            reply.close()
        return read_page(body, cookies, base_url=self.base_url)


def _stale(said: str) -> AuthenticationError:
    return AuthenticationError(f"the page's tokens are not taken any more ({said})", detail=said)
