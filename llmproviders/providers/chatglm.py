"""ChatGLM: the guest chat of chatglm.cn, whose events repeat the whole text so far."""

from __future__ import annotations

from ..provider import USER_AGENT, Provider

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..provider import Call, Fetch, Reply, Request

_GENERAL_ASSISTANT = "65940acff94777010aa6b796"


class ChatGLM(Provider):
    """ChatGLM's guest chat; no key.

    Another assistant than the general one is chosen by
    ``extra_body={"assistant_id": "..."}``.

    >>> ChatGLM().get_model("all-tools-230b")
    'glm-4'
    """

    url = "https://chatglm.cn"
    api_endpoint = f"{url}/chatglm/mainchat-api/guest/stream"
    supports_system_message = False
    supports_message_history = False
    default_model = "glm-4"
    models = ("glm-4",)
    model_aliases = {"all-tools-230b": "glm-4"}
    _modules = ("uuid", "._cumulative")

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Fold the conversation into the one message that the service takes."""
        import uuid

        from .._call import Call
        from ..messages import fold

        self.sampling(request)
        text = fold(request.messages)
        body: dict[str, Any] = {
            "assistant_id": _GENERAL_ASSISTANT,
            "conversation_id": "",
            "meta_data": {
                "if_plus_model": False,
                "is_test": False,
                "input_question_type": "xxxx",
                "channel": "",
                "draft_id": "",
                "quote_log_id": "",
                "platform": "pc",
            },
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
            **request.params.get("extra_body", {}),
        }
        return Call(
            "POST",
            f"{self.base_url}/chatglm/mainchat-api/guest/stream",
            headers={
                "Accept": "text/event-stream",
                "Accept-Encoding": "gzip, deflate",
                "Accept-Language": "en-US,en;q=0.9",
                "App-Name": "chatglm",
                "Origin": "https://chatglm.cn",
                "User-Agent": USER_AGENT,
                "X-App-Platform": "pc",
                "X-App-Version": "0.0.1",
                "X-Device-Id": uuid.uuid4().hex,
            },
            json=body,
            authorization="undefined",
        )

    def parse(self, reply: Reply) -> Iterator[str]:
        """Yield what each event adds to the text before it; see ``parse_cumulative``."""
        from .._cumulative import parse_cumulative

        return parse_cumulative(reply)
