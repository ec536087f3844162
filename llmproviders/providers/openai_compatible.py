"""Any server that speaks OpenAI's chat completions: Ollama, llama.cpp, vLLM, commercial APIs."""

from __future__ import annotations

from .._params import SAMPLING
from ..provider import Catalogue, Provider

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    import requests

    from .._clock import Scope
    from .._redact import Secret
    from .._secret import Key
    from ..errors import LLMError
    from ..provider import Call, Fetch, Limits, Reply, Request, Timeout

_HEADERS = {"Accept": "application/json, text/event-stream", "Accept-Encoding": "gzip, deflate"}


class OpenAICompatible(Provider):
    """A server with ``/chat/completions`` under its ``base_url``.

    Args:
        api_key: the key, where the server wants one, or where it is kept; ``OPENAI_API_KEY``.
        max_concurrency: requests at a time in this process for one key; None: any number.
        base_url: with the path, which usually ends in ``/v1``; ``OPENAI_BASE_URL``.

    >>> local = OpenAICompatible(base_url="http://localhost:11434/v1", model="llama3.2")
    >>> local.get_model(None)
    'llama3.2'
    """

    url = "https://api.openai.com/v1"
    api_endpoint = f"{url}/chat/completions"
    default_model = "gpt-4o-mini"
    models = Catalogue("gpt-4o-mini", "gpt-4o")
    open_catalogue = True
    takes = SAMPLING - {"repetition_penalty", "profanity_check"}
    _modules = ("._chat_completions", "._concurrency", "._secret")
    environment = {
        "api_key": ("OPENAI_API_KEY",),
        "base_url": ("OPENAI_BASE_URL",),
        "model": ("OPENAI_MODEL",),
    }

    def __init__(
        self,
        *,
        api_key: Key | None = None,
        max_concurrency: int | None = None,
        base_url: str | None = None,
        model: str | None = None,
        proxy: str | None = None,
        timeout: Timeout | None = None,
        session: requests.Session | None = None,
        name: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        from .._redact import hidden
        from .._secret import take

        self._api_key = api_key = take("api_key", api_key)
        base_url, proxy = hidden(base_url), hidden(proxy)
        super().__init__(
            base_url=base_url,
            model=model,
            proxy=proxy,
            timeout=timeout,
            session=session,
            name=name,
            limits=limits,
        )
        from .._numbers import whole

        self.max_concurrency = (
            None if max_concurrency is None else whole("max_concurrency", max_concurrency)
        )

    def place(self, scope: Scope) -> AbstractContextManager[float]:
        """Wait for one of the ``max_concurrency`` places of this key."""
        if self.max_concurrency is None:
            return super().place(scope)
        from .._concurrency import Place

        credential = self.credential_digest() or self.base_url
        return Place(credential, self.max_concurrency, scope)

    def credential_digest(self) -> str | None:
        """A hash of the key and the address; None where there is no key."""
        from .._secret import digest

        key = self._secret("api_key", self._api_key)
        return digest(key, self.base_url) if key else None

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Put the messages and parameters into a JSON body."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": list(request.messages),
            "stream": request.stream,
            **({"stream_options": {"include_usage": True}} if request.stream else {}),
            **self.sampling(request),
            **request.params.get("extra_body", {}),
        }
        return self._call("POST", "/chat/completions", json=body)

    def parse(self, reply: Reply) -> Iterator[str]:
        """Read a stream or a whole reply; see ``parse_chat``."""
        from .._chat_completions import parse_chat

        return parse_chat(reply)

    def explain(self, error: LLMError, request: Request) -> LLMError:
        """Say of a 404 whether the model or the address is the likely cause."""
        from ..errors import InvalidRequestError, ModelNotFoundError

        if error.status_code != 404 or isinstance(error, ModelNotFoundError):
            return error
        model = request.model or self.model or self.default_model
        said = error.detail or ""
        if "model" in said.lower():
            kind: type[LLMError] = ModelNotFoundError
            message = f"{self.name} has no model {model!r} ({said}); models() lists what it has"
        else:
            kind = InvalidRequestError
            hint = "" if self.base_url.endswith("/v1") else "; it usually ends in /v1"
            message = f"no service answers under {self.base_url}{hint}; check base_url"
        return kind(message, status_code=404, request_id=error.request_id, detail=error.detail)

    def list_models(self) -> list[str]:
        """The names of the models that the server has now.

        Raises:
            LLMError: as for any call.
        """
        return self.ask(lambda _: self._call("GET", "/models"), lambda r: _names(r.read()))

    def check_credentials(self) -> None:
        """Look for the key, where the address is one that wants one."""
        self._key()

    def _key(self) -> Secret | None:
        key = self._secret("api_key", self._api_key)
        if key is None and self.base_url == self.url:
            from ..errors import MissingAuthError

            raise MissingAuthError(
                f"{self.name} needs a key: set OPENAI_API_KEY or pass api_key=, "
                "or set OPENAI_BASE_URL to a server that needs none"
            )
        return key

    def _call(self, method: str, path: str, json: Any = None) -> Call:
        from .._call import Call
        from .._redact import Secret

        key = self._key()
        return Call(
            method,
            self.base_url + path,
            headers=_HEADERS,
            json=json,
            authorization=None if key is None else Secret("Bearer " + key),
        )


def _names(body: bytes) -> list[str]:
    from .._chat_completions import parse_list

    return [item["id"] for item in parse_list(body) if isinstance(item.get("id"), str)]
