"""What a caller asks is checked before any I/O, whoever answers."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import Any, get_type_hints

import pandas
import pytest

import llmproviders
from llmproviders import InvalidRequestError, OpenAICompatible, batch
from llmproviders._request import KNOWN, ChatRequest, Params
from llmproviders.conversation import Conversation
from llmproviders.notebook import show, use
from llmproviders.provider import Provider, ProviderArguments
from llmproviders.providers import REGISTRY
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider


def of(**params: Any) -> ChatRequest:
    """A request with parameters."""
    return ChatRequest.of("Hi", params=params)


class Number:
    """An integer of another library, such as numpy's."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"n": 2}, "n must be 1 or left out"),
        ({"n": 0}, "n must be 1"),
        ({"n": "1"}, "n must be a whole number"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": True}, "temperature must be a number"),
        ({"temperature": float("nan")}, "temperature must be a number"),
        ({"max_tokens": 2.5}, "max_tokens must be a whole number"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "are the same"),
        ({"functions": ["weather"]}, "functions must be a list"),
        ({"tool_choice": 7}, "tool_choice must be"),
        ({"response_format": "json"}, "response_format must be an object"),
        ({"stop": 7}, "stop must be a string"),
        ({"session_id": ["x"]}, "session_id must be a string"),
        ({"extra_body": "x"}, "extra_body must be"),
        ({"extra_headers": "x"}, "extra_headers must be a dict"),
        ({"extra_headers": {"X y": "x"}}, "not a header name"),
        ({"extra_headers": {"X": 7}}, "value for X"),
        ({"extra_headers": {"Content-Length": "5"}}, "Content-Length, which is set from the body"),
        ({"extra_headers": {"content-length": "5"}}, "leave it out"),
        ({"extra_headers": {"TRANSFER-ENCODING": "chunked"}}, "break the connection"),
        ({"extra_headers": {"X": "a\r\nEvil: b"}}, "line break"),
        ({"attach": 7}, "attach must be a path"),
        ({"attach": [""]}, "attach must be a path"),
    ],
)
def test_refused(params: dict[str, Any], said: str) -> None:
    """What no service could take is refused with the parameter's name and what is right."""
    with pytest.raises(InvalidRequestError, match=said):
        of(**params)


def test_numbers_of_other_libraries() -> None:
    """A numpy integer is a number, and goes into JSON."""
    numpy = pytest.importorskip("numpy")
    request = of(max_tokens=numpy.int64(5), seed=numpy.int32(7), temperature=numpy.float32(0.5))
    assert json.loads(json.dumps(request.params)) == {
        "max_tokens": 5,
        "seed": 7,
        "temperature": 0.5,
    }
    assert of(max_tokens=Number(5)).params == {"max_tokens": 5}


def test_two_names_of_one_limit() -> None:
    """``max_completion_tokens`` is ``max_tokens``, for services that know either."""
    asked = {"max_completion_tokens": 5, "max_tokens": 5}
    assert of(max_completion_tokens=5).params == asked
    assert of(max_tokens=5).params == {"max_tokens": 5}


def test_none_is_left_out() -> None:
    """A parameter of None is as if it had not been given."""
    assert of(**dict.fromkeys(KNOWN)) == of()


def test_what_belongs_to_the_call() -> None:
    """Headers, files, a schema and thinking are the request's own, not a service's parameters."""
    request = of(
        extra_headers={"X-Team": " sales "}, attach="a.png", schema=dict, reasoning=True, n=1
    )
    assert request.extra_headers == {"X-Team": "sales"}
    assert (request.attach, request.reasoning) == (("a.png",), True)
    assert request.schema is not None
    assert request.schema.json_schema["type"] == "object"
    assert request.params == {"n": 1}


def test_extra_body() -> None:
    """Its fields win; None takes a field out."""
    body = of(extra_body={"a": 1, "b": None, "c": None}).with_extra_body({"b": 2, "d": None})
    assert body == {"a": 1, "d": None}


def test_a_header_like_a_key_is_masked() -> None:
    """A secret in headers shows in no error and no repr."""
    request = of(extra_headers={"X-Api-Key": "planted-0123456789"})
    assert "planted" not in repr(request)
    error = llmproviders.ServerError("the service echoed planted-0123456789")
    assert "planted" not in str(error)
    with pytest.raises(InvalidRequestError) as caught:
        of(extra_headers={"X-Api-Key": "planted-9876543210\nplanted-rest-of-it"})
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("base_url", 5, "base_url must be a string"),
        ("base_url", "localhost:8000", "base_url is not a URL"),
        ("base_url", "http://a b/", "base_url is not a URL"),
        ("base_url", " ", "base_url is blank"),
        ("model", ["m"], "model must be a string"),
        ("model", "\n", "model is blank"),
        ("name", 5, "name must be a string"),
        ("name", "", "name is blank"),
        ("proxy", {"https": "http://p"}, "proxy must be"),
        ("timeout", "60", "timeout must be"),
        ("session", object, "session must be a requests.sessions.Session"),
        ("limits", 5, "limits must be"),
        ("headers", ["X: y"], "headers must be a dict"),
        ("headers", {"X": None}, "headers has a value for X"),
        ("ca_bundle", 5, "ca_bundle must be the path"),
        ("ca_bundle", "", "ca_bundle is blank"),
        ("verify", "bundle.pem", "ca_bundle="),
        ("verify", 0, "verify must be True or False"),
        ("cert", 5, "cert must be the path"),
        ("cert", ("a", "b", "c"), "cert must be a file, or a pair"),
        ("trust", "certifi", 'trust must be "system"'),
        ("per_minute", 0, "per_minute must be a whole number"),
        ("per_day", "many", "per_day must be a whole number"),
        ("per_day", {"replies": 5}, "per_day must be"),
        ("per_day", {"tokens": -1}, "per_day.*tokens.* must be"),
    ],
)
@pytest.mark.parametrize("service", REGISTRY)
def test_arguments_of_a_provider(service: str, argument: str, value: Any, said: str) -> None:
    """A wrong argument is an ``InvalidRequestError`` at once that names it and what is right."""
    with pytest.raises(InvalidRequestError, match=said):
        REGISTRY[service](**{argument: value})


@pytest.mark.parametrize(
    ("service", "argument", "value", "said"),
    [
        ("gigachat", "auth_url", "ftp://host/oauth", "auth_url is not a URL"),
        ("gigachat", "auth_url", "http://a b/", "auth_url is not a URL"),
        ("gigachat", "auth_url", 5, "auth_url must be a string"),
        ("gigachat", "scope", 5, "scope must be a string"),
        ("gigachat", "token_cache", 5, "token_cache must be the path"),
        ("gigachat", "update_interval", "1", "update_interval must be a number of seconds"),
        ("gigachat", "max_concurrency", 0, "max_concurrency must be a whole number"),
        ("gigachat", "password", 5, "password must be a string"),
        ("gigachat", "api_key", " ", "api_key is blank"),
        ("gigachat", "access_token", 5, "access_token must be a string"),
        ("openaicompatible", "api_key", 5, "api_key must be a string"),
        ("openaicompatible", "think_tags", "no", "think_tags must be True or False"),
        ("yandexgpt", "folder_id", 5, "folder_id must be a string"),
        # Else prompts would be kept by the service, though it was told not to.
        ("yandexgpt", "data_logging", "false", "data_logging must be True or False"),
        ("yandexgpt", "data_logging", 0, "data_logging must be True or False"),
    ],
)
def test_arguments_of_one_provider(service: str, argument: str, value: Any, said: str) -> None:
    """So is a wrong argument that only some providers take."""
    with pytest.raises(InvalidRequestError, match=said):
        REGISTRY[service](**{argument: value})


def test_a_model_of_a_call() -> None:
    """Its space is dropped; a blank one and one that is no text are refused before sending."""
    assert ChatRequest.of("Hi", model=" m\n", params={}).model == "m"
    for wrong in (" ", "", 5, b"m"):
        model: Any = wrong
        with pytest.raises(InvalidRequestError, match=r"^model (must be|is)"):
            ScriptedProvider(["a"]).complete("Hi", model=model)


@pytest.mark.parametrize("service", REGISTRY)
def test_arguments_are_kept(service: str) -> None:
    """Every provider takes the same arguments, without the white space around them."""
    provider = REGISTRY[service](
        base_url=" http://127.0.0.1:1/v1\n",
        model=" m ",
        headers={"X-Team": "sales"},
        ca_bundle="ca.pem",
        cert=["client.pem", "client.key"],
        trust="system",
        per_minute=30,
        per_day=1000,
        name=" mine ",
    )
    assert (provider.base_url, provider.model, provider.name) == (
        "http://127.0.0.1:1/v1",
        "m",
        "mine",
    )
    assert provider.headers == {"X-Team": "sales"}
    assert (provider.ca_bundle, provider.cert) == ("ca.pem", ("client.pem", "client.key"))
    assert (provider.verify, provider.system_trust) == (True, True)
    assert (provider.per_minute, provider.per_day) == (30, 1000)


@pytest.mark.parametrize("service", REGISTRY)
def test_signatures_name_every_argument(service: str) -> None:
    """A signature spells out the arguments that a constructor passes on; so do its hints."""
    parameters = inspect.signature(REGISTRY[service]).parameters
    assert parameters.keys() >= ProviderArguments.__annotations__.keys()
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    shared = inspect.signature(Provider.__init__).parameters
    assert shared.keys() - {"self"} == ProviderArguments.__annotations__.keys()


MODULES = (
    *("batch", "cache", "client", "config", "conversation", "errors", "failover", "messages"),
    *("notebook", "provider", "providers", "results", "sandbox", "schema", "testing", "tools"),
)


def _public() -> list[Any]:
    """Every class and function that a program can import from a module of ours by its name."""
    found = {llmproviders.load_ipython_extension, llmproviders.usage}
    found |= {getattr(llmproviders, name) for name in llmproviders.__all__}
    for name in MODULES:
        module = importlib.import_module(f"llmproviders.{name}")
        found |= {
            member
            for member_name, member in vars(module).items()
            if not member_name.startswith("_")
            and (inspect.isclass(member) or inspect.isroutine(member))
            and member.__module__.startswith("llmproviders")
        }
    return sorted(found, key=lambda member: (member.__module__, member.__qualname__))


def _is_function(member: object) -> bool:
    return inspect.isfunction(member) or inspect.ismethod(member)


@pytest.mark.parametrize("kind", _public(), ids=lambda kind: kind.__qualname__)
def test_type_hints(kind: Any) -> None:
    """``get_type_hints`` works on every public class and function, without the extras too."""
    get_type_hints(kind)
    for name, member in inspect.getmembers(kind, _is_function):
        ours = (getattr(member, "__module__", None) or "").startswith("llmproviders")
        if ours and (name == "__init__" or not name.startswith("_")):
            get_type_hints(member)


@pytest.mark.parametrize("name", ["stream", "complete", "create_generator", "run"])
@pytest.mark.parametrize("kind", [*REGISTRY.values(), llmproviders.FailoverClient])
def test_keywords_of_a_call_are_shown(kind: Any, name: str) -> None:
    """What Shift-Tab and completion read has every keyword; so has what checkers read."""
    parameters = inspect.signature(getattr(kind, name)).parameters
    assert parameters.keys() >= Params.__annotations__.keys()
    assert parameters["temperature"].default is None
    assert parameters["temperature"].annotation == "float | None"
    assert parameters["tools"].default is (inspect.Parameter.empty if name == "run" else None)
    *_, rest = parameters.values()
    assert rest.kind is rest.VAR_KEYWORD
    assert str(rest.annotation).startswith("Unpack[Params")
    assert "Params" in str(get_type_hints(getattr(kind, name))["params"])


SPELLED_OUT = [
    (llmproviders.Provider.conversation, "ConversationParams"),
    (Conversation, "ConversationParams"),
    (Conversation.ask, "CompleteParams"),
    (Conversation.stream, "StreamParams"),
    (Conversation.run, "RunParams"),
    (batch.map, "BatchParams"),
    (batch.table, "BatchParams"),
    (show, "StreamParams"),
    (use, "StreamParams"),
]


@pytest.mark.parametrize(("function", "keywords"), SPELLED_OUT)
def test_keywords_of_a_call_are_shown_elsewhere(function: Any, keywords: str) -> None:
    """Whatever passes a call's keywords on shows them, and a checker knows them, too."""
    parameters = inspect.signature(function).parameters
    wanted = {*Params.__annotations__, "model"}
    if keywords != "ConversationParams":
        wanted |= {"timeout", "proxy", "accept", "deadline"}
    if keywords in ("CompleteParams", "RunParams", "BatchParams"):
        wanted.add("stream")
    if function is show:
        # A schema needs the whole reply.
        wanted.remove("schema")
    assert parameters.keys() >= wanted
    *_, rest = parameters.values()
    assert (rest.kind, str(rest.annotation)) == (rest.VAR_KEYWORD, f"Unpack[{keywords}]")
    hints = get_type_hints(function.__init__ if isinstance(function, type) else function)
    assert keywords in str(hints["params"])


def test_keywords_that_are_passed_on(sandbox: Sandbox) -> None:
    """Each that a signature shows beside ``Params`` reaches the call."""
    asked: Any = {
        "model": "gpt-4o",
        "timeout": 7.0,
        "deadline": 20.0,
        "accept": lambda reply: "no",
        "stream": False,
        "schema": None,
    }
    with OpenAICompatible(**sandbox.provider_arguments("openai")) as provider:
        chat = provider.conversation()
        with pytest.raises(llmproviders.RejectedReplyError):
            chat.ask("Hi", **asked)
        with pytest.raises(llmproviders.RejectedReplyError):
            chat.run("Hi", tools=[text_length], max_turns=2, on_tool=print, **asked)
        (result,) = batch.map(provider, ["Hi"], **asked)
        assert isinstance(result.error, llmproviders.RejectedReplyError)
        frame = batch.table(provider, "{a}", pandas.DataFrame({"a": ["Hi"]}), **asked)
        assert "RejectedReplyError" in frame.loc[0, "error"]
    bodies = [request.json for request in sandbox.requests]
    assert [(body["model"], body["stream"]) for body in bodies] == [("gpt-4o", False)] * 4


def text_length(text: str) -> int:
    """Count."""
    return len(text)


def test_ipython_completes_keywords() -> None:
    """IPython offers the keywords of a call."""
    completer = pytest.importorskip("IPython.core.completer")
    offered = completer.IPCompleter()._default_arguments(ScriptedProvider(["a"]).complete)
    assert {"temperature", "extra_headers", "deadline"} <= set(offered)
