"""A WordPress site with the AI Power plugin: a page with a nonce, then a form."""

from __future__ import annotations

import re
import secrets
import threading
from typing import ClassVar

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox._reply import (
    HTML,
    ReplyPiece,
    SandboxReply,
    Stream,
    Whole,
    event,
    html_error,
    json_reply,
)
from llmproviders.sandbox._script import write_script
from llmproviders.sandbox._settings import Settings
from llmproviders.sandbox.services._base import Service

_COOKIE = "sandbox_session"

_POST_ID = "1041"

_MAX_SESSIONS = 10_000

_WIDGETS = (
    """<div class="wpaicg-chat-shortcode" data-nonce="{nonce}" data-bot-id="0"
 data-url="/chat" data-post-id="{post_id}" data-type="shortcode">""",
    """<div data-post-id='{post_id}' data-bot-id='0' data-nonce='{nonce}' class='wpaicg-chat'>""",
)
"""Two ways of writing the same element; visitors get them in turn."""

_PAGE = """<!DOCTYPE html>
<html lang="en-US"><head><title>Chat | sandbox</title></head>
<body class="page page-id-{post_id}">
{widget}<div class="wpaicg-chat-shortcode-messages"></div>
<input type="text" class="wpaicg-chat-shortcode-typing" placeholder="Type a message"></div>
</body></html>
"""


class ChatGpttService(Service):
    """Gives out nonces with its page, each for one cookie, and takes the chat form."""

    name = "chatgptt"
    class_name = "ChatGptt"
    title = "ChatGptt"
    routes: ClassVar = {
        ("GET", "/"): "page",
        ("HEAD", "/"): "page",
        ("GET", ""): "page",
        ("POST", "/wp-admin/admin-ajax.php"): "chat",
    }

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._lock = threading.Lock()
        self._nonces: dict[str, tuple[str, float]] = {}
        self._visits = 0

    def expire_nonces(self) -> None:
        """Accept no nonce that was given out so far."""
        with self._lock:
            self._nonces.clear()

    def refuse(self, request: RecordedRequest) -> Whole | None:
        """Return 403 and ``-1`` for an invalid nonce, as WordPress does."""
        if request.kind == "page":
            return None
        form = request.form
        if form.get("action") != "wpaicg_chat_shortcode_message":
            return Whole(400, b"0", content_type=HTML)
        if not self._holds(_session(request), form.get("_wpnonce", "")):
            return self.error(403, "chat")
        problem = _form_problem(form)
        return json_reply({"status": "error", "msg": problem}) if problem else None

    def _holds(self, session: str, nonce: str) -> bool:
        with self._lock:
            own, expires_at = self._nonces.get(session, ("", 0.0))
        return bool(own) and own == nonce and self.settings.clock() < expires_at

    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return the page, or the reply to the form: JSON, or events if the site streams."""
        if request.kind == "page":
            return self._page(_session(request), empty=empty)
        messages = [{"role": "user", "content": request.form["message"]}]
        script = write_script(self.next_reply(), self.title, messages, empty=empty)
        if not self.settings.chatgptt_streams:
            reply = json_reply({"status": "success", "data": script.text, "msg": ""})
            reply.pieces = len(script.pieces)
            return reply
        frames = (
            event({"choices": [{"index": 0, "delta": {"content": piece}}]}, is_text=True)
            for piece in script.pieces
        )
        stop = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        return Stream(frames, (event(stop), ReplyPiece(b"data: [DONE]\n\n")))

    def _page(self, session: str, *, empty: bool) -> Whole:
        headers: tuple[tuple[str, str], ...] = ()
        with self._lock:
            nonce, expires_at = self._nonces.get(session, ("", 0.0))
            now = self.settings.clock()
            if now >= expires_at:
                session = session or secrets.token_hex(16)
                nonce = secrets.token_hex(5)
                self._nonces[session] = (nonce, now + self.settings.chatgptt_nonce_life_s)
                headers = (("Set-Cookie", f"{_COOKIE}={session}; Path=/; HttpOnly"),)
                if len(self._nonces) > _MAX_SESSIONS:
                    del self._nonces[next(iter(self._nonces))]
            widget = "<div>" if empty else _WIDGETS[self._visits % len(_WIDGETS)]
            self._visits += 1
        widget = widget.format(nonce=nonce, post_id=_POST_ID)
        page = _PAGE.format(widget=widget, post_id=_POST_ID)
        return Whole(200, page.encode(), content_type=HTML, headers=headers)

    def error(self, status: int, kind: str, /) -> Whole:
        """Return a web server's error page; on a forbidden form just ``-1``."""
        if kind == "chat" and status == 403:
            return Whole(403, b"-1", content_type=HTML)
        return html_error(status)


def _session(request: RecordedRequest) -> str:
    for cookie in request.headers.get("cookie", "").split(";"):
        name, _, value = cookie.strip().partition("=")
        if name == _COOKIE:
            return value
    return ""


def _form_problem(form: dict[str, str]) -> str | None:
    if form.get("post_id") != _POST_ID:
        return "Invalid post."
    if form.get("bot_id") != "0" or form.get("chatbot_identity") != "shortcode":
        return "Invalid chatbot."
    if not re.fullmatch(r"[0-9a-f]{10}", form.get("wpaicg_chat_client_id", "")):
        return "Invalid client id."
    if not form.get("url"):
        return "The url is missing."
    if form.get("wpaicg_chat_history", ""):
        return "The chat history could not be read."
    return None if form.get("message") else "It appears that nothing was inputted."
