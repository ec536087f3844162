"""Unknown names: each message says where the name belongs, or what it is called here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from llmproviders import FailoverClient, GigaChat, OpenAICompatible, Provider, YandexGPT
from llmproviders._account import names
from llmproviders._request import KNOWN, CallParams
from llmproviders.batch import map as batch_map
from llmproviders.batch import run
from llmproviders.config import ConfigError
from llmproviders.testing import ScriptedProvider

FIELDS = ["user", "logprobs", "metadata", "top_k", "service_tier", "verbosity", "store"]


def refusal(name: str) -> str:
    """What a call says about a name."""
    with pytest.raises(TypeError) as caught:
        ScriptedProvider(["Yes."]).complete("Hi", **{name: 1})  # type: ignore[arg-type]
    return str(caught.value)


class TestCall:
    @pytest.mark.parametrize("name", [*FIELDS, "logit_bias", "min_p"])
    def test_a_field_of_some_services(self, name: str) -> None:
        """A field that a service may know is told with ``extra_body``, and nothing else."""
        said = refusal(name)
        assert said.startswith(f"unknown parameter {name!r}")
        assert f"extra_body={{{name!r}: ...}}" in said
        assert "did you mean" not in said

    @pytest.mark.parametrize("name", ["xyzzy", "a_new_field", "streams"])
    def test_a_name_like_no_other(self, name: str) -> None:
        """A name that is like none is told with ``extra_body``, too."""
        assert f"extra_body={{{name!r}: ...}}" in refusal(name)
        assert "did you mean" not in refusal(name)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("temprature", "did you mean 'temperature'? Or, if the service knows it, pass extra_b"),
            ("temp", "did you mean 'temperature'?"),
            ("timeout_s", "did you mean 'timeout'?"),
            ("stream_options", "leave it out: the usage comes by itself"),
            ("proxies", "did you mean proxy?"),
            ("messages", "the messages are the first argument"),
            ("max_concurrency", "workers="),
            ("image", "did you mean attach?"),
            ("images", "did you mean attach?"),
            ("files", "did you mean attach?"),
            ("max_output_tokens", "did you mean max_tokens?"),
            ("response_model", "did you mean schema?"),
            ("headers", "did you mean extra_headers?"),
            ("api_key", "it is an argument of the provider"),
            ("hedge_after", "it is an argument of FailoverClient"),
            ("max_retries", "attempts= is an argument of FailoverClient"),
        ],
    )
    def test_a_name_from_elsewhere(self, name: str, words: str) -> None:
        """A misspelt, misplaced or foreign name gets its answer."""
        assert words in refusal(name)

    def test_in_a_batch(self) -> None:
        """A batch says the same, at once for its own keywords, in the row for a row's."""
        client = ScriptedProvider(["Yes."])
        with pytest.raises(TypeError, match="workers="):
            batch_map(client, ["Hi"], max_concurrency=3)  # type: ignore[call-arg]
        [result] = run(client, [{"prompt": "Hi", "top_k": 3}])
        assert "extra_body={'top_k': ...}" in str(result.error)

    @pytest.mark.parametrize(
        ("name", "place", "said"),
        [
            ("top_k", "call", "; if the service knows it, pass extra_body={'top_k': ...}"),
            (
                "top_k",
                "client",
                "; if the service knows it, pass extra_body={'top_k': ...} to the call",
            ),
            ("max_output_tokens", "call", "; did you mean max_tokens?"),
            ("max_output_tokens", "client", "; pass max_tokens= to the call"),
            ("temperature", "call", None),
            ("attempts", "client", None),
            ("base_url", "provider", None),
            ("wa", "client", None),
            ("wai", "client", "; did you mean 'waiting'?"),
        ],
    )
    def test_the_place(self, name: str, place: names.Place, said: str | None) -> None:
        """Nobody is sent to the place where the name was given; two letters begin too many."""
        assert names.about_unknown(name, ["waiting"], place) == said


class TestConstructor:
    @pytest.mark.parametrize(
        ("kind", "name", "words"),
        [
            (OpenAICompatible, "proxies", "did you mean proxy?"),
            (OpenAICompatible, "modle", "did you mean 'model'?"),
            (OpenAICompatible, "temperature", "pass it to the call"),
            (OpenAICompatible, "max_tokens", "pass it to the call"),
            (OpenAICompatible, "max_output_tokens", "pass max_tokens= to the call"),
            (OpenAICompatible, "top_k", "pass extra_body={'top_k': ...} to the call"),
            (OpenAICompatible, "deadline", "an argument of FailoverClient"),
            (OpenAICompatible, "attempts", "an argument of FailoverClient"),
            (OpenAICompatible, "max_retries", "an argument of FailoverClient"),
            (OpenAICompatible, "default_headers", "did you mean headers?"),
            (OpenAICompatible, "credentials", "did you mean api_key?"),
            (OpenAICompatible, "organization", 'headers={"OpenAI-Organization": ...}'),
            (OpenAICompatible, "http_client", "did you mean session?"),
            (OpenAICompatible, "xyzzy", "it has: api_key, max_concurrency, "),
            (GigaChat, "credentials", "did you mean api_key?"),
            (GigaChat, "verify_ssl_certs", "did you mean verify?"),
            (YandexGPT, "folder", "did you mean 'folder_id'?"),
        ],
    )
    def test_of_a_provider(self, kind: type[Provider], name: str, words: str) -> None:
        """The class that the caller wrote is named, and what to do; no class behind it."""
        with pytest.raises(TypeError) as caught:
            kind(**{name: 1})  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"{kind.__name__} has no argument {name!r}; ")
        assert words in str(caught.value)

    def test_of_a_plug_in(self) -> None:
        """A subclass of another package may take arguments of its own out of the others."""

        class Own(ScriptedProvider):
            def __init__(self, **arguments: Any) -> None:
                self.mood = arguments.pop("mood", None)
                super().__init__(["Yes."], **arguments)

        assert Own(mood="good").mood == "good"
        with pytest.raises(TypeError, match="Own has no argument 'proxies'; did you mean proxy"):
            Own(proxies={})

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("temperature", "pass it to the call"),
            ("timeout", "an argument of a provider, or of the call"),
            ("proxy", "an argument of a provider, or of the call"),
            ("model", "an argument of a provider, or of the call"),
            ("proxies", "proxy= is an argument of the provider"),
            ("base_url", "an argument of the provider"),
            ("max_retries", "did you mean attempts?"),
            ("attempst", "did you mean 'attempts'?"),
            ("xyzzy", "it has: providers, attempts, "),
        ],
    )
    def test_of_a_client(self, name: str, words: str) -> None:
        """A ``FailoverClient`` says whose argument it is."""
        with pytest.raises(TypeError) as caught:
            FailoverClient([ScriptedProvider(["Yes."])], **{name: 1})  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"FailoverClient has no argument {name!r}; ")
        assert words in str(caught.value)

    def test_in_a_configuration(self, tmp_path: Any) -> None:
        """A configuration says the same of a key."""
        path = tmp_path / "config.toml"
        path.write_text('[[provider]]\ntype = "openai"\ntemperature = 1\n')
        with pytest.raises(ConfigError, match=r"unknown key 'temperature' .*pass it to the call"):
            FailoverClient.from_config(path)
        path.write_text('[[provider]]\ntype = "openai"\n[failover]\nmax_retries = 2\n')
        with pytest.raises(ConfigError, match="did you mean attempts"):
            FailoverClient.from_config(path)


class TestLists:
    """The lists of names are those of the signatures."""

    def test_of_calls(self) -> None:
        """Every parameter of a call is known as one."""
        assert KNOWN | CallParams.__annotations__.keys() == names._CALL | names._EITHER

    def test_of_clients(self) -> None:
        """Every argument of a client that belongs to nothing else is known as one."""
        own = set(inspect.signature(FailoverClient).parameters)
        assert own - names._CALL - {"providers", "name"} == names._CLIENT

    def test_of_providers(self) -> None:
        """Every argument of a provider that belongs to nothing else is known as one."""
        kinds = (OpenAICompatible, GigaChat, YandexGPT)
        own = set().union(*(inspect.signature(kind).parameters for kind in kinds))
        own -= {"name", "max_concurrency", "user"} | names._EITHER
        assert own == names._PROVIDER
