"""`Sandbox`: all services on one port, with their faults and the requests they received."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from llmproviders.failover import FailoverClient
from llmproviders.providers import find
from llmproviders.sandbox._delivery import Delivery
from llmproviders.sandbox._faults import Body, Fault, FaultQueue
from llmproviders.sandbox._http import (
    HOST,
    BadRequestError,
    Connection,
    ConnectionOverError,
    Incoming,
    Server,
)
from llmproviders.sandbox._names import CLASS_NAMES, service_name, suggest
from llmproviders.sandbox._record import RecordedRequest, RequestLog
from llmproviders.sandbox._reply import SandboxReply, Whole, html_error
from llmproviders.sandbox._script import FINISHES, WRONG_JSON, ScriptedReply
from llmproviders.sandbox._settings import (
    LONGEST_WAIT_S,
    SLICE_S,
    ReplyText,
    Settings,
    seconds,
    whole,
)
from llmproviders.sandbox.services import SERVICES, gigachat
from llmproviders.sandbox.services._base import Service
from llmproviders.sandbox.services.chatgptt import ChatGpttService

ServiceT = TypeVar("ServiceT", bound=Service)

_LOGGER = logging.getLogger("llmproviders.sandbox")

_GIGACHAT_MODELS = ("GigaChat-2", "GigaChat-2-Pro", "GigaChat-2-Max")

_OPENAI_MODELS = ("sandbox-small", "sandbox-large", "gpt-4o", "gpt-4o-mini")

_PREFIXES = [(f"{kind.base_path}/", kind.name) for kind in SERVICES if kind.base_path]


class Sandbox:
    """The protocols of all services on loopback, with faults on request.

    Args:
        port: port on 127.0.0.1; 0 for any free one.
        reply: a text for every reply, or a function that makes one from the list of messages (each
            with ``role`` and ``content``); None: the sandbox's own words, the same for the same
            question.
        piece_delay_s: seconds that each piece of a reply takes; a reply that does not stream
            takes the sum.
        compress: gzip the replies to clients that accept it.
        chunked: False ends every stream by closing the connection, as HTTP/1.0 does.
        keep_requests: how many of the last requests :attr:`requests` holds; counts are exact
            regardless.
        clock: Unix time in seconds, for the life of tokens and nonces and the ``Date`` header.
        gigachat_scope: the one scope that the sandbox's key has.
        gigachat_max_concurrency: chat requests at a time; None: 1 for ``GIGACHAT_API_PERS``,
            else 10.
        gigachat_token_life_s, chatgptt_nonce_life_s: seconds.
        gigachat_models, openai_models: the models that these services have, the first one the
            default.
        chatgptt_streams: the site has streaming switched on.

    Raises:
        ValueError: there is no such scope.

    Some phrases in a prompt ask for more than text: ``think`` (reasoning first), ``call the tool``
    (where the request offers one), ``trip the filter`` (stopped after three pieces; ``trip the
    filter at once``: before the first), ``draw a picture`` (GigaChat).

    >>> import http.client
    >>> with Sandbox() as sandbox:
    ...     connection = http.client.HTTPConnection("127.0.0.1", sandbox.port)
    ...     connection.request("GET", "/v1/models")
    ...     print(connection.getresponse().status, sandbox.count("openai", "models"))
    ...     connection.close()
    401 1
    """

    def __init__(
        self,
        *,
        port: int = 0,
        reply: ReplyText = None,
        piece_delay_s: float = 0.0,
        compress: bool = False,
        chunked: bool = True,
        keep_requests: int = 10_000,
        clock: Callable[[], float] = time.time,
        gigachat_scope: str = "GIGACHAT_API_PERS",
        gigachat_max_concurrency: int | None = None,
        gigachat_token_life_s: float = 1800.0,
        gigachat_models: tuple[str, ...] = _GIGACHAT_MODELS,
        openai_models: tuple[str, ...] = _OPENAI_MODELS,
        chatgptt_streams: bool = False,
        chatgptt_nonce_life_s: float = 12 * 3600.0,
    ) -> None:
        if gigachat_scope not in gigachat.SCOPES:
            raise ValueError(f"gigachat_scope must be one of {', '.join(gigachat.SCOPES)}")
        if gigachat_max_concurrency is None:
            gigachat_max_concurrency = 1 if gigachat_scope == "GIGACHAT_API_PERS" else 10
        port = whole("port", port, least=0, most=65535)
        self._settings = Settings(
            reply=reply,
            piece_delay_s=seconds("piece_delay_s", piece_delay_s, zero=True, most=LONGEST_WAIT_S),
            compress=compress,
            chunked=chunked,
            clock=clock,
            gigachat_scope=gigachat_scope,
            gigachat_max_concurrency=whole("gigachat_max_concurrency", gigachat_max_concurrency),
            gigachat_token_life_s=seconds("gigachat_token_life_s", gigachat_token_life_s),
            gigachat_models=gigachat_models,
            openai_models=openai_models,
            chatgptt_streams=chatgptt_streams,
            chatgptt_nonce_life_s=seconds("chatgptt_nonce_life_s", chatgptt_nonce_life_s),
        )
        services = [kind(self._settings) for kind in SERVICES]
        self._services = {service.name: service for service in services}
        self._routes = {
            target: (service, kind)
            for service in services
            for target, kind in service.routes.items()
        }
        self._log = RequestLog(whole("keep_requests", keep_requests, least=0))
        self._faults = FaultQueue()
        self._port = port
        self._server: Server | None = None
        self._closed = threading.Event()

    def start(self) -> Sandbox:
        """Start serving, and return the sandbox.

        After :meth:`close`, serves again on the same port.

        Raises:
            OSError: the port is taken.
        """
        if self._server is None:
            server = Server(self._handle)
            self._port = server.start(self._port)
            self._server = server
            self._closed.clear()
        return self

    def close(self) -> None:
        """End every connection and every thread; the requests stay readable."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._closed.set()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Wait until the sandbox is closed; exceptions from signal handlers pass through."""
        # Not the event's own wait: an exception in it can leave its lock held, and close() sets it.
        while not self._closed.is_set():
            time.sleep(SLICE_S)

    @property
    def port(self) -> int:
        """The port.

        Raises:
            RuntimeError: the sandbox has not started yet.
        """
        if not self._port:
            raise RuntimeError("the sandbox has no port yet: call start(), or use with")
        return self._port

    @property
    def url(self) -> str:
        """The origin, such as ``http://127.0.0.1:8123``."""
        return f"http://{HOST}:{self.port}"

    def environ(self) -> dict[str, str]:
        """Return the environment variables that point every provider at this sandbox.

        >>> with Sandbox() as sandbox:
        ...     sandbox.environ()["OPENAI_BASE_URL"] == sandbox.url + "/v1"
        True
        """
        found: dict[str, str] = {}
        for service in self._services.values():
            found |= service.environ(self.url)
        return found

    def provider_arguments(self, name: str) -> dict[str, Any]:
        """Return the constructor's keyword arguments that point one provider at this sandbox.

        Args:
            name: the provider's class, in any case, with or without dashes.

        Raises:
            ValueError: there is no such provider; the message has the nearest name.

        >>> with Sandbox() as sandbox:
        ...     sandbox.provider_arguments("ChatGLM") == {"base_url": sandbox.url}
        True
        """
        return self._services[service_name(name)].arguments(self.url)

    def client(self, *providers: Any, **failover_arguments: Any) -> FailoverClient:
        """Return a client of the providers, in that order, each pointed at this sandbox.

        Args:
            *providers: names (in any case, with or without dashes), pairs of a name and a model,
                or whatever a ``FailoverClient`` takes; without any, all of them.
            **failover_arguments: passed on to the ``FailoverClient``.

        Raises:
            ValueError: there is no such provider.

        >>> with Sandbox(reply="It scatters.") as sandbox:
        ...     print(sandbox.client("GigaChat", "ChatGLM").complete("Why is the sky blue?"))
        It scatters.
        """
        choices = providers or tuple(CLASS_NAMES)
        return FailoverClient([self._provider(choice) for choice in choices], **failover_arguments)

    def _provider(self, choice: Any) -> Any:
        if isinstance(choice, tuple):
            provider, model = choice
            return self._provider(provider), model
        if not isinstance(choice, str):
            return choice

        kind = find(service_name(choice))
        assert kind is not None
        return kind(**self.provider_arguments(choice))

    def fail(
        self,
        provider: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        cut_after: int | None = None,
        stall: bool = False,
        drip_s: float | None = None,
        reset: bool = False,
        garbage: bool = False,
        html: bool = False,
        empty: bool = False,
        wrong_json: bool = False,
        before_head: bool = False,
        times: int = 1,
        on: str = "chat",
    ) -> None:
        """Make the next requests to one provider fail; several faults queue up.

        A fault that replaces the reply applies before a request is checked; one that damages it
        waits for the next request that the service accepts.

        Args:
            provider: its class, in any case, with or without dashes.
            status: a reply with this status instead.
            headers: headers of that reply; alone, they are added to the usual one.
            body: the body of that reply, as bytes, text, or a value for JSON; default: the
                service's own.
            cut_after: the connection closes after that many pieces of text (0: after the head),
                without the end mark; a reply that does not stream is cut in half.
            stall: nothing more is sent after the head, or after ``cut_after`` pieces.
            drip_s: the body is sent one byte at a time, with this many seconds before each.
            reset: a TCP reset instead of the reply, or after ``cut_after`` pieces.
            garbage: the first piece, or the one after ``cut_after`` pieces, is neither JSON nor
                text.
            html: a bot challenge page, with HTTP status 200 unless ``status`` is given.
            empty: a whole and well-formed reply that has no text.
            wrong_json: a whole reply whose text is broken JSON, which satisfies no schema.
            before_head: ``stall`` and ``drip_s`` begin with the reply's head.
            times: for how many requests.
            on: ``"chat"``, ``"token"`` (gigachat), ``"page"`` (chatgptt), ``"models"`` (gigachat,
                openai).

        Raises:
            ValueError: there is no such provider, or the arguments make no sense.

        >>> with Sandbox() as sandbox:
        ...     client = sandbox.client("GigaChat", "ChatGLM", attempts=1)
        ...     sandbox.fail("gigachat", status=503)
        ...     print(client.complete("Why is the sky blue?").provider)
        ChatGLM
        """
        fault = Fault(
            status=status,
            headers=headers,
            body=body,
            cut_after=cut_after,
            stall=stall,
            drip_s=drip_s,
            reset=reset,
            garbage=garbage,
            html=html,
            empty=empty,
            wrong_json=wrong_json,
            before_head=before_head,
            times=times,
        )
        self._faults.add(service_name(provider), on, fault)

    def reply(
        self,
        provider: str,
        text: str | None = None,
        *,
        tool_calls: Sequence[Mapping[str, Any]] | None = None,
        reasoning: str | None = None,
        finish: str = "stop",
        usage: Mapping[str, int] | None = None,
        times: int = 1,
    ) -> None:
        """Set the reply to the next chats with one provider; replies queue up.

        Args:
            provider: its class, in any case, with or without dashes.
            text: the text; None: the sandbox's own words, or none beside ``tool_calls``.
            tool_calls: the calls that the reply makes, in OpenAI's form or as
                ``{"name": ..., "arguments": ...}``; the guest services have none.
            reasoning: the thoughts before the text, for services that have them.
            finish: ``"stop"``, ``"length"`` or ``"content_filter"``.
            usage: the service's ``usage``, for services that report it.
            times: for how many chats.

        Raises:
            ValueError: there is no such provider, or an argument makes no sense.

        >>> with Sandbox() as sandbox:
        ...     sandbox.reply("deepseek", "Forty-two.", reasoning="Hm.")
        ...     reply = sandbox.client("deepseek").complete("Well?")
        >>> print(reply, reply.reasoning)
        Forty-two. Hm.
        """
        if finish not in FINISHES:
            raise ValueError(f"unknown finish {finish!r}; {suggest(finish, FINISHES)}")
        scripted = ScriptedReply(
            text=text,
            tool_calls=[_call_of(call) for call in tool_calls or ()],
            reasoning=reasoning,
            finish=finish,
            usage=None if usage is None else dict(usage),
        )
        self._services[service_name(provider)].script(scripted, whole("times", times))

    def heal(self, provider: str | None = None) -> None:
        """Remove the remaining faults of ``provider``; None: of all providers."""
        self._faults.clear(provider if provider is None else service_name(provider))

    def expire_tokens(self) -> None:
        """Treat all GigaChat tokens issued so far as expired."""
        self._service(gigachat.GigaChatService).expire_tokens()

    def expire_nonces(self) -> None:
        """Treat all ChatGptt nonces issued so far as expired."""
        self._service(ChatGpttService).expire_nonces()

    def _service(self, kind: type[ServiceT]) -> ServiceT:
        service = self._services[kind.name]
        assert isinstance(service, kind)
        return service

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last ``keep_requests`` requests, oldest first."""
        return self._log.snapshot()

    def count(self, provider: str | None = None, kind: str | None = None) -> int:
        """Return how many requests arrived.

        Args:
            provider: count only this one's; None: those of all.
            kind: count only this kind, such as ``"chat"`` or ``"token"``; None: every kind.
        """
        return self._log.count(provider if provider is None else service_name(provider), kind)

    def wait_for(self, predicate: Callable[[Sandbox], object], *, timeout_s: float = 5.0) -> bool:
        """Wait until the predicate holds, and return whether it did in time.

        Args:
            predicate: gets the sandbox; called right away and after each change: a request arrives,
                a piece is sent, a reply ends.
            timeout_s: how long to wait at most, in seconds.
        """
        timeout_s = seconds("timeout_s", timeout_s, zero=True, most=LONGEST_WAIT_S)
        return self._log.wait_for(lambda: predicate(self), timeout_s)

    def _handle(self, connection: Connection, incoming: Incoming | BadRequestError) -> bool:
        if isinstance(incoming, BadRequestError):
            return _refuse_bytes(connection, incoming.status)
        target = incoming.method, _route(incoming.path)
        service, kind = self._routes.get(target, (None, "unknown"))
        record = RecordedRequest(
            service=service.name if service else _owner(incoming.path),
            kind=kind,
            method=incoming.method,
            path=incoming.path,
            query=incoming.query,
            headers=incoming.headers,
            body=incoming.body,
            at=time.monotonic(),
            connection=connection.number,
        )
        self._log.add(record)
        aborted = False
        try:
            reply, fault = self._reply(service, record)
            delivery = Delivery(connection, incoming, record, self._settings, self._log, fault)
            return delivery.send(reply)
        except ConnectionOverError as over:
            aborted = over.client_left
            raise
        finally:
            self._log.end(record, aborted=aborted)

    def _reply(
        self, service: Service | None, record: RecordedRequest
    ) -> tuple[SandboxReply, Fault | None]:
        if service is None:
            return self._not_found(record), None
        try:
            reply, fault = self._reply_of(service, record)
        except Exception:
            # The user's `reply` function may raise anything; clients see a broken service.
            _LOGGER.exception("The sandbox could not answer a %s request", record.kind)
            reply, fault = service.error(500, record.kind), None
        if fault is None or not fault.html:
            reply.headers += service.reply_headers(record)
        return reply, fault

    def _reply_of(
        self, service: Service, record: RecordedRequest
    ) -> tuple[SandboxReply, Fault | None]:
        kind = record.kind
        fault = self._faults.take(service.name, kind, first=True)
        if fault is not None:
            return fault.own_reply(service.error(fault.status or 200, kind)), fault
        refusal = service.refuse(record)
        if refusal is not None:
            return refusal, None
        fault = self._faults.take(service.name, kind, first=False)
        service.say_here(WRONG_JSON if fault is not None and fault.wrong_json else None)
        return service.answer(record, empty=fault is not None and fault.empty), fault

    def _not_found(self, record: RecordedRequest) -> Whole:
        known = {method for method, path in self._routes if path == _route(record.path)}
        status = 405 if known else 404
        owner = self._services.get(record.service)
        return owner.error(status, record.kind) if owner else html_error(status)


def _route(path: str) -> str:
    """Return a path with ``{id}`` in place of the id of a file."""
    return re.sub(r"(?<=/files/)[^/]+", "{id}", path)


def _call_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name and the arguments of a call, as an object."""
    function = call.get("function", call)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return {"name": function["name"], "arguments": arguments}


def _owner(path: str) -> str:
    return next((name for prefix, name in _PREFIXES if path.startswith(prefix)), "")


def _refuse_bytes(connection: Connection, status: int) -> bool:
    body = html_error(status).body
    head = f"HTTP/1.1 {status} Bad Request\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    connection.send(head.encode() + b"\r\n" + body)
    return False
