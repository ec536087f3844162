"""GigaChat's ways of its own: models that come and go, two hosts, version 2, keys as pasted."""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from llmproviders import (
    AuthenticationError,
    BlockedError,
    ConnectionFailed,
    FailoverClient,
    GigaChat,
    InvalidRequestError,
    MissingAuthError,
    ModelNotFoundError,
    ServerError,
)
from llmproviders._account.keys import KeyFile
from llmproviders._runtime import files
from llmproviders.providers.gigachat._models import home_of, stand_in
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, Sender, with_sender
from tests.support.golden import goldens
from tests.support.http_bytes import http_response
from tests.support.promise import read
from tests.support.rawserver import server_context

QUESTION = "Why is the sky blue?"
JSON = "application/json"
SHORT = goldens("gigachat", name="short")[0].body
ID, SECRET = "7c0f3a52-5a6d-4b8e-9c31-5a0db0c5a11e", "2d9b7f40-1e8c-4f6a-8b55-5a0db0c5ec7"
KEY = base64.b64encode(f"{ID}:{SECRET}-".encode()).decode()


def listing(*names: str) -> Canned:
    """A list of models."""
    data = [{"id": name, "object": "model"} for name in names]
    return Canned(json.dumps({"data": data}).encode(), JSON)


def gone(words: str = "No such model") -> ModelNotFoundError:
    """What a 404 for a model comes out as."""
    return ModelNotFoundError(f"HTTP 404: {words}", status_code=404, detail=words)


def asking(*answers: Any, **arguments: Any) -> tuple[GigaChat, Sender]:
    """A GigaChat that gets these answers."""
    sender = Sender(*answers)
    return with_sender(GigaChat, sender, **{"access_token": "some-token", **arguments}), sender


def models_asked(sender: Sender) -> list[str]:
    """What the chats asked for, in order."""
    return [call.json["model"] for call in sender.calls if call.json]


class TestStandIn:
    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (["GigaChat-3-Ultra", "GigaChat-3-Max", "GigaChat-3-Pro", "GigaChat-3"], "GigaChat-3"),
            (["GigaChat-Max", "GigaChat"], "GigaChat"),
            (["GigaChat-3-Pro-preview", "GigaChat-3-Lite"], "GigaChat-3-Lite"),
            (["Another-1", "gigachat-4", "GigaChat-5"], "gigachat-4"),
            (["Another-1", "Embeddings", "GigaEmbeddings"], "Another-1"),
            (["GigaChat-2", "Promax-1", "GigaChat-ultra"], "Promax-1"),
        ],
    )
    def test_it_is_of_the_same_tier(
        self, caplog: pytest.LogCaptureFixture, names: list[str], found: str
    ) -> None:
        """A default that is gone is replaced by one of its tier, in the words of the service."""
        giga, sender = asking(gone(), listing(*names), Canned(SHORT))
        with caplog.at_level(logging.WARNING, "llmproviders"):
            assert read(giga.stream(QUESTION)).text
            assert read(giga.stream(QUESTION)).text
        assert models_asked(sender) == ["GigaChat-2", found, found]
        assert f"{found} is asked instead" in caplog.text

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            ("GigaChat-2", "Cheap-1"),
            ("GigaChat-2-Pro", "GigaChat-3-Pro"),
            ("gigachat-2-max", "MAX"),
            ("Ultra", "GigaChat-3-ULTRA-preview"),
        ],
    )
    def test_each_tier(self, asked: str, found: str) -> None:
        """A model is replaced within its tier, by a model for chats and not by itself."""
        names = ["Cheap-1", "GigaChat-3-Pro", "MAX", "GigaChat-3-ULTRA-preview"]
        models = [{"id": name} for name in names]
        pictures = {"id": f"GigaChat-{asked}", "type": "images"}
        chats = [{**model, "type": "chat"} for model in models]
        for listed in (models, chats, [{"id": asked}, pictures, *chats]):
            assert stand_in(listed, asked) == found
        assert stand_in([{"id": asked}, pictures], asked) is None

    def test_a_dearer_one_is_not_taken(self) -> None:
        """Where only dearer ones are left, the call fails and names them."""
        giga, sender = asking(gone(), listing("GigaChat-2-Pro", "GigaChat-2-Max"))
        error = read(giga.stream(QUESTION)).error
        assert isinstance(error, ModelNotFoundError)
        assert "GigaChat-2-Pro, GigaChat-2-Max" in str(error)
        assert models_asked(sender) == ["GigaChat-2"]


class TestAlias:
    def test_the_callers_own_word_where_it_is_listed(self) -> None:
        """An older name that the service lists is sent as it is; it is asked for its list once."""
        giga, sender = asking(listing("GigaChat", "GigaChat-Max", "GigaChat-2-Max"), Canned(SHORT))
        for _ in range(2):
            assert read(giga.stream(QUESTION, model="GigaChat-Max")).text
        assert models_asked(sender) == ["GigaChat-Max", "GigaChat-Max"]
        assert len(sender.calls) == 3
        assert giga.get_model("GigaChat-Max") == "GigaChat-Max"

    def test_the_alias_where_it_is_not(self) -> None:
        """An older name that the service does not list stands for today's."""
        giga, sender = asking(
            listing("GigaChat-2", "GigaChat-2-Max"), Canned(SHORT), model="GigaChat-Max"
        )
        assert read(giga.stream(QUESTION)).text
        assert models_asked(sender) == ["GigaChat-2-Max"]

    def test_todays_names_are_not_looked_up(self) -> None:
        """A name of today is sent at once, without a request for the list."""
        giga, sender = asking(Canned(SHORT))
        assert read(giga.stream(QUESTION, model="GigaChat-2-Max")).text
        assert len(sender.calls) == 1

    def test_a_service_that_lists_nothing(self) -> None:
        """Where the list cannot be had, the alias is used."""
        unlisted = InvalidRequestError("HTTP 404", status_code=404)
        giga, sender = asking(unlisted, Canned(SHORT))
        assert read(giga.stream(QUESTION, model="GigaChat-Pro")).text
        assert models_asked(sender) == ["GigaChat-2-Pro"]

    def test_on_the_sandbox(self) -> None:
        """A host that has models by their older names answers for vectors and counts, too."""
        with (
            Sandbox(gigachat_models=("GigaChat", "GigaChat-Max")) as sandbox,
            GigaChat(**sandbox.provider_arguments("gigachat")) as giga,
        ):
            assert giga.complete(QUESTION, model="GigaChat-Max").text
            assert giga.count_tokens("text", model="GigaChat-Max")
            sent = [r.json["model"] for r in sandbox.requests if r.kind in ("chat", "tokens")]
            assert sent == ["GigaChat-Max", "GigaChat-Max"]
            assert giga.complete(QUESTION).model == "GigaChat:2.0.28.2"


class TestNotFound:
    def test_the_services_words_stay(self) -> None:
        """A 404 for a model keeps what the service said and never suggests that very name."""
        giga, _ = asking(gone("Model is switched off"), listing("GigaChat-2-Max", "GigaChat-2"))
        error = read(giga.stream(QUESTION, model="GigaChat-2-Max")).error
        assert isinstance(error, ModelNotFoundError)
        assert "Model is switched off" in str(error)
        assert "did you mean 'GigaChat-2-Max'" not in str(error)
        assert "did you mean 'GigaChat-Max'" not in str(error)
        assert str(error).count("GigaChat-2-Max") == 1
        assert str(error).endswith("(Model is switched off)")
        assert error.detail == "Model is switched off"

    def test_nothing_was_said(self) -> None:
        """Where the service said nothing, its status stands in place of its words."""
        giga, _ = asking(ModelNotFoundError("no", status_code=404), listing("GigaChat-2"))
        error = read(giga.stream(QUESTION, model="GigaChat-2-Max")).error
        assert str(error).endswith("It has: GigaChat-2 (HTTP 404)")

    def test_nothing_is_listed(self) -> None:
        """Where the models cannot be listed either, the error says so, and which was asked for."""
        giga, _ = asking(gone(), InvalidRequestError("no", status_code=404))
        error = read(giga.stream(QUESTION, model="GigaChat-2-Max")).error
        assert isinstance(error, ModelNotFoundError)
        assert "GigaChat-2-Max was asked for, and the available models could not" in str(error)

    @pytest.mark.parametrize("listed", [True, False])
    def test_where_a_model_lives(self, listed: bool) -> None:
        """A model that only the other host has is told with that host's address."""
        second = listing("GigaChat-2") if listed else InvalidRequestError("no", status_code=404)
        old_host = "https://gigachat.devices.sberbank.ru/api/v1"
        giga, _ = asking(gone(), second, base_url=old_host)
        error = read(giga.stream(QUESTION, model="GigaChat-3-Ultra")).error
        assert "GigaChat-3-Ultra is on https://api.giga.chat/v1" in str(error)
        assert "No such model" in str(error)
        giga, _ = asking(gone(), second)
        error = read(giga.stream(QUESTION, model="GigaChat-3-Ultra")).error
        assert "is on https" not in str(error)

    @pytest.mark.parametrize(
        ("model", "url", "elsewhere"),
        [
            ("gigachat-3-ultra-preview", "https://x/api/v1", True),
            ("GigaChat-3-Ultra", "https://api.giga.chat/another", False),
            ("GigaChat-3", "https://x/api/v1", False),
            ("my-GigaChat-3-Ultra", "https://x/api/v1", False),
        ],
    )
    def test_a_model_of_one_host(self, model: str, url: str, elsewhere: bool) -> None:
        """It is told by how its name begins, and by the host alone."""
        said = home_of(model, url)
        assert (said is not None) is elsewhere
        assert said is None or said.startswith(f"{model} is on https://api.giga.chat/v1: ")


V2_WHOLE = {
    "messages": [{"role": "assistant", "content": [{"text": "It scatters."}]}],
    "finish_reason": "stop",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
V2_STREAM = b"".join(
    b"event: response.message.%b\ndata: %b\n\n" % (name, json.dumps(V2_WHOLE).encode())
    for name in (b"delta", b"done")
)


class TestVersion2:
    @pytest.mark.parametrize(
        "address",
        [
            *("https://api.giga.chat/v2", "https://x/api/v2/", "https://x/V2"),
            "https://x/v2/chat/completions",
            "https://x/v2?version=1",
        ],
    )
    def test_by_the_address(self, address: str) -> None:
        """An address of version 2 is refused when the provider is made."""
        with pytest.raises(InvalidRequestError, match=r"version 2 .* ends in /v1$"):
            GigaChat(base_url=address)

    @pytest.mark.parametrize("address", ["https://v2.example", "https://x/v2/v1", "https://x/v22"])
    def test_by_nothing_else(self, address: str) -> None:
        """An address with such a word elsewhere is none."""
        assert GigaChat(base_url=address).base_url == address

    def test_by_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So is one that the environment names."""
        monkeypatch.setenv("GIGACHAT_BASE_URL", "https://api.giga.chat/v2")
        with pytest.raises(InvalidRequestError, match="/v1"):
            GigaChat()

    @pytest.mark.parametrize(
        ("body", "kind"),
        [(json.dumps(V2_WHOLE).encode(), JSON), (V2_STREAM, "text/event-stream")],
    )
    def test_by_the_reply(self, raw_server: RawServerFactory, body: bytes, kind: str) -> None:
        """A reply of version 2 is told as such, and is not paid for again."""
        server = raw_server(http_response(200, {"Content-Type": kind}, body))
        giga = GigaChat(base_url=f"{server.url}/api", access_token="some-token")
        with giga, FailoverClient([giga, ScriptedProvider(["second"])], attempts=4) as client:
            reply = client.complete(QUESTION)
        assert str(reply) == "second"
        error = reply.attempts[0].error
        assert isinstance(error, InvalidRequestError)
        assert "/v1" in str(error)
        assert error.status_code == 200
        assert len(server.requests) == 1


class TestRefusals:
    def test_a_400_about_the_authorization(self) -> None:
        """The token service's 400 about the header is a verdict on the key."""
        said = {"code": 4, "message": "Can't decode 'Authorization' header"}
        with Sandbox() as sandbox:
            sandbox.fail("gigachat", status=400, body=said, on="token")
            giga = GigaChat(**sandbox.provider_arguments("gigachat"))
            with giga, pytest.raises(AuthenticationError, match="GIGACHAT_CREDENTIALS") as caught:
                giga.complete(QUESTION)
        assert caught.value.status_code == 400
        assert "Can't decode" in str(caught.value)

    @pytest.mark.parametrize(
        ("words", "advice"),
        [
            ("scope is empty", "no scope was given; set GIGACHAT_SCOPE or pass scope=: it is"),
            ("scope data format invalid", "'GIGACHAT_API_PERS' is not a scope; set"),
            ("scope from db not fully includes consumed scope", "not for the scope 'GIGACHAT_API_"),
            ("something else", "no access token from "),
            (None, "no access token from "),
        ],
    )
    def test_a_400_about_the_scope(self, words: str | None, advice: str) -> None:
        """Its words decide what is advised; they stand behind the advice."""
        with Sandbox() as sandbox:
            body = {"code": 5, "message": words} if words else b""
            sandbox.fail("gigachat", status=400, body=body, on="token")
            giga = GigaChat(**sandbox.provider_arguments("gigachat"))
            with giga, pytest.raises(InvalidRequestError) as caught:
                giga.complete(QUESTION)
        assert advice in str(caught.value)
        assert f"HTTP 400: {words or ''}" in str(caught.value) or not words
        assert ("for individuals" in str(caught.value)) is ("scope" in (words or ""))

    def test_words_about_the_scope_in_another_error(self) -> None:
        """An error that is not about the request is told as what it is."""
        with Sandbox() as sandbox:
            body = {"code": 5, "message": "scope is empty"}
            sandbox.fail("gigachat", status=503, body=body, on="token")
            giga = GigaChat(**sandbox.provider_arguments("gigachat"))
            with giga, pytest.raises(ServerError, match="no access token from "):
                giga.complete(QUESTION)

    def test_a_certificate_of_a_stranger(
        self, ca: trustme.CA, raw_server: RawServerFactory
    ) -> None:
        """A token service that cannot be trusted is the certificate's matter, not the token's."""
        server = raw_server(b"", tls=ca)
        address = f"https://127.0.0.1:{server.port}/oauth"
        giga = GigaChat(api_key=KEY, auth_url=address)
        with giga, pytest.raises(ConnectionFailed) as caught:
            giga.complete(QUESTION)
        assert caught.value.detail == "certificate"
        assert "no access token" not in str(caught.value)

    def test_a_certificate_that_a_session_does_not_trust(self) -> None:
        """A session trusts what it was told to, so that nothing is said to be trusted already."""
        stranger = ConnectionFailed("self-signed certificate", detail="certificate")
        giga, _ = asking(stranger)
        error = read(giga.stream(QUESTION)).error
        assert "trust gigachat --download" in str(error)
        assert "trusted already" not in str(error)

    def test_a_refusal_without_a_word(self) -> None:
        """Where the token service says nothing, that is said."""
        with Sandbox() as sandbox:
            sandbox.fail("gigachat", status=401, body=b"", on="token")
            giga = GigaChat(**sandbox.provider_arguments("gigachat"))
            with giga, pytest.raises(AuthenticationError) as caught:
                giga.complete(QUESTION)
        assert "(HTTP 401: without a word)" in str(caught.value)

    def test_a_token_refused_with_400(self) -> None:
        """A token that the API calls expired with 400 is renewed once, like one with 401."""
        with Sandbox() as sandbox:
            said = {"status": 400, "message": "Token has expired"}
            sandbox.fail("gigachat", status=400, body=said)
            with GigaChat(**sandbox.provider_arguments("gigachat")) as giga:
                assert giga.complete(QUESTION).text
                assert sandbox.count("gigachat", "token") == 2
                sandbox.fail("gigachat", status=400, body=said, times=2)
                with pytest.raises(AuthenticationError, match="a token that it had just given"):
                    giga.complete(QUESTION)

    @pytest.mark.parametrize("on", ["token", "chat"])
    def test_a_firewalls_page(self, raw_server: RawServerFactory, on: str) -> None:
        """A web page with 403 is a firewall's, and no verdict on the key."""
        page = b"<html><head><title>Access denied by policy</title></head></html>"
        wall = raw_server(http_response(403, {"Content-Type": "text/html"}, page))
        with Sandbox() as sandbox:
            arguments = sandbox.provider_arguments("gigachat")
            arguments["auth_url" if on == "token" else "base_url"] = f"{wall.url}/v1"
            with GigaChat(**arguments) as giga, pytest.raises(BlockedError) as caught:
                giga.complete(QUESTION)
        assert "Access denied by policy" in str(caught.value)
        assert "refused the authorization key" not in str(caught.value)


class TestCredentials:
    def test_looked_up_once_a_call(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One call reads the key's file once, for its slot and its requests together."""
        read_files = []
        real = files.read

        def note(path: Any, **options: Any) -> bytes:
            read_files.append(path)
            return real(path, **options)

        with Sandbox() as sandbox:
            arguments = sandbox.provider_arguments("gigachat")
            (tmp_path / "key").write_text(arguments.pop("api_key"))
            with GigaChat(**arguments, api_key=KeyFile(str(tmp_path / "key"))) as giga:
                monkeypatch.setattr(files, "read", note)
                for calls in (1, 2):
                    assert giga.complete(QUESTION).text
                    assert len(read_files) == calls
                giga.balance()
                assert len(read_files) == 3
                giga.embed("text")
                assert len(read_files) == 4

    def test_a_key_that_cannot_be_one_is_not_waited_with(self) -> None:
        """A malformed key is found before anything is sent, and names the way to the right one."""
        giga, sender = asking(Canned(SHORT), access_token=None, api_key=f"{ID}:{SECRET}")
        error = read(giga.stream(QUESTION)).error
        assert isinstance(error, AuthenticationError)
        assert "the pair itself" in str(error)
        assert sender.calls == []

    def test_failover_passes_a_malformed_key_over(self) -> None:
        """A key that cannot be one is this provider's trouble: the next one answers."""
        giga = GigaChat(api_key="no key")
        with FailoverClient([giga, ScriptedProvider(["second"])]) as client:
            assert str(client.complete(QUESTION)) == "second"

    def test_importing_it_is_cheap(self) -> None:
        """Importing GigaChat loads neither ssl nor requests."""
        code = "import sys; from llmproviders import GigaChat; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        loaded = set(done.stdout.split())
        assert "llmproviders.providers.gigachat._credentials" in loaded
        assert loaded.isdisjoint({"ssl", "requests", "urllib3"})


TOKEN, USER = {"access_token": "made-elsewhere"}, {"user": "me", "password": "hunter22"}
VARIABLES = {
    "GIGACHAT_ACCESS_TOKEN": "made-elsewhere",
    "GIGACHAT_CREDENTIALS": KEY,
    "GIGACHAT_USER": "me",
    "GIGACHAT_PASSWORD": "hunter22",
    "GIGACHAT_CERT_FILE": "me.crt",
}


class TestOrder:
    @pytest.mark.parametrize(
        ("given", "variables", "way"),
        [
            ({}, VARIABLES, TOKEN),
            ({"api_key": KEY}, VARIABLES, {"api_key": KEY}),
            (USER, VARIABLES, USER),
            ({"api_key": KEY, **USER}, VARIABLES, {"api_key": KEY}),
            ({"api_key": KEY, **TOKEN}, {}, TOKEN),
            ({**USER, **TOKEN}, {}, TOKEN),
            ({"cert": "me.crt"}, {"GIGACHAT_CREDENTIALS": KEY}, {"api_key": KEY}),
            ({}, {"GIGACHAT_CERT_FILE": "me.crt"}, {"cert": "me.crt"}),
        ],
    )
    def test_which_goes_first(
        self,
        monkeypatch: pytest.MonkeyPatch,
        given: dict[str, str],
        variables: dict[str, str],
        way: dict[str, str],
    ) -> None:
        """What is given goes before the environment; then a token, a key, a user, a certificate."""
        alone = GigaChat(**way).credential_digest()
        assert alone is not None
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert GigaChat(**given).credential_digest() == alone

    def test_each_has_slots_tokens_and_files_of_its_own(self) -> None:
        """Whatever tells two logins apart tells their counts and tokens apart, too."""
        ways: list[dict[str, Any]] = [
            *({"api_key": KEY}, {"api_key": KEY, "scope": "GIGACHAT_API_B2B"}),
            *({"api_key": KEY, "auth_url": "https://x/oauth"}, {"access_token": KEY}, TOKEN),
            *(USER, {**USER, "user": "you"}, {**USER, "password": "hunter23"}),
            *({**USER, "base_url": "https://x/v1"}, {"cert": "me.crt"}, {"cert": "you.crt"}),
            {"cert": ("me.crt", "me.key")},
        ]
        assert len({GigaChat(**way).credential_digest() for way in ways}) == len(ways)
        assert GigaChat().credential_digest() is None

    def test_a_refused_certificate(self) -> None:
        """Where there is nothing but a certificate, a refusal is not tried again."""
        refused = AuthenticationError("no", status_code=401)
        giga, sender = asking(refused, Canned(SHORT), access_token=None, cert="me.pem")
        assert isinstance(read(giga.stream(QUESTION)).error, AuthenticationError)
        assert len(sender.calls) == 1

    @pytest.mark.parametrize("beside", [{"cert": "me.pem"}, {}])
    def test_a_refused_token_without_another_login(self, beside: dict[str, str]) -> None:
        """A certificate beside it is no other login: the token that was given is at fault."""
        refused = AuthenticationError("no", status_code=401)
        giga, sender = asking(refused, Canned(SHORT), **beside)
        error = read(giga.stream(QUESTION)).error
        assert isinstance(error, AuthenticationError)
        assert "access token that was given" in str(error)
        assert len(sender.calls) == 1

    def test_a_refused_token_beside_a_user(self, raw_server: RawServerFactory) -> None:
        """It is replaced by one for the user, then and in later calls, and only for its value."""
        answer = json.dumps({"tok": "user-token", "exp": int(time.time()) + 1800}).encode()
        fine = http_response(200, {"Content-Type": "text/event-stream"}, SHORT)
        server = raw_server(
            http_response(401, {"Content-Type": JSON}, b"{}"),
            http_response(200, {"Content-Type": JSON}, answer),
            *(fine, fine),
        )
        with GigaChat(base_url=f"{server.url}/v1", **TOKEN, **USER) as giga:
            for _ in range(2):
                assert giga.complete(QUESTION).text
        assert [request.header("authorization").split()[-1] for request in server.requests] == [
            *("made-elsewhere", base64.b64encode(b"me:hunter22").decode()),
            *("user-token", "user-token"),
        ]


class TestUser:
    def test_a_token_for_a_user(self, raw_server: RawServerFactory) -> None:
        """A user and a password are sent once, by HTTP Basic, for a token in the older form."""
        answer = json.dumps({"tok": "user-token", "exp": int(time.time()) + 1800}).encode()
        replies = [
            http_response(200, {"Content-Type": JSON}, answer),
            *[http_response(200, {"Content-Type": "text/event-stream"}, SHORT)] * 2,
        ]
        server = raw_server(*replies)
        with GigaChat(base_url=f"{server.url}/v1", user="Пётр", password="hunter22") as giga:
            for _ in range(2):
                assert giga.complete(QUESTION).text
        token, *chats = server.requests
        pair = base64.b64encode("Пётр:hunter22".encode()).decode()
        assert (token.method, token.target, token.body) == ("POST", "/v1/token", b"")
        assert token.header("accept") == "application/json"
        assert token.header("authorization") == f"Basic {pair}"
        assert [chat.header("authorization") for chat in chats] == ["Bearer user-token"] * 2

    def test_a_token_for_several_processes(
        self, raw_server: RawServerFactory, tmp_path: Path
    ) -> None:
        """A user's token is kept in the file that processes share, too."""
        answer = json.dumps({"tok": "user-token", "exp": int(time.time()) + 1800}).encode()
        server = raw_server(
            http_response(200, {"Content-Type": JSON}, answer),
            http_response(200, {"Content-Type": "text/event-stream"}, SHORT),
        )
        cache = tmp_path / "tokens.json"
        with GigaChat(base_url=f"{server.url}/v1", token_cache=cache, **USER) as giga:
            assert giga.complete(QUESTION).text
        assert "user-token" in cache.read_text()

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The official client's variables are read; a key goes before a user."""
        monkeypatch.setenv("GIGACHAT_USER", "me")
        monkeypatch.setenv("GIGACHAT_PASSWORD", "hunter22")
        by_user = GigaChat().credential_digest()
        assert by_user == GigaChat(user="me", password="hunter22").credential_digest()
        assert by_user != GigaChat(user="me", password="hunter23").credential_digest()
        monkeypatch.setenv("GIGACHAT_CREDENTIALS", KEY)
        assert GigaChat().credential_digest() == GigaChat(api_key=KEY).credential_digest()
        assert GigaChat(user="me").credential_digest() == by_user

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"user": "me"}, "has a user and no password: set GIGACHAT_PASSWORD or pass password="),
            ({"password": "x"}, "has a password and no user: set GIGACHAT_USER or pass user="),
        ],
    )
    def test_half_of_it(self, arguments: dict[str, Any], said: str) -> None:
        """A user without a password, or the other way round, says what is missing."""
        giga, sender = asking(Canned(SHORT), access_token=None, **arguments)
        error = read(giga.stream(QUESTION)).error
        assert isinstance(error, MissingAuthError)
        assert said in str(error)
        assert sender.calls == []

    def test_refused(self, raw_server: RawServerFactory) -> None:
        """A refused password says which variables to look at, and shows nothing of it."""
        pair = base64.b64encode(b"me:hunter22").decode()
        said = json.dumps({"status": 401, "message": f"no hunter22 in {pair}"}).encode()
        server = raw_server(http_response(401, {"Content-Type": JSON}, said))
        giga = GigaChat(base_url=f"{server.url}/v1", user="me", password="hunter22")
        with giga, pytest.raises(AuthenticationError, match="GIGACHAT_PASSWORD") as caught:
            giga.complete(QUESTION)
        assert f"{server.url}/v1/token refused the user 'me'" in str(caught.value)
        assert "(HTTP 401: no *** in ***)" in str(caught.value)

    def test_a_name_with_a_colon(self) -> None:
        """It would be another name and another password: nothing is sent."""
        giga, sender = asking(Canned(SHORT), access_token=None, user="m:e", password="hunter22")
        error = read(giga.stream(QUESTION)).error
        assert isinstance(error, InvalidRequestError)
        assert "colon" in str(error)
        assert sender.calls == []

    def test_an_address_without_tokens(self, raw_server: RawServerFactory) -> None:
        """Where a user's tokens are not given, the argument for the address is named."""
        server = raw_server(http_response(404, {"Content-Type": JSON}, b"{}"))
        giga = GigaChat(base_url=f"{server.url}/v1", **USER)
        with giga, pytest.raises(InvalidRequestError) as caught:
            giga.complete(QUESTION)
        assert f"there is no token service at {server.url}/v1/token" in str(caught.value)
        assert "check base_url" in str(caught.value)


class TestCertificate:
    def test_nothing_else_is_sent(self) -> None:
        """With a client certificate and neither key nor token, no Authorization is sent."""
        giga, sender = asking(Canned(SHORT), access_token=None, cert=("me.crt", "me.key"))
        assert read(giga.stream(QUESTION)).text
        assert sender.calls[0].authorization is None
        giga.check_credentials()
        assert giga.credential_digest() not in (None, GigaChat(cert="you.crt").credential_digest())

    def test_a_key_beside_it(self) -> None:
        """A token that was given is sent, with a certificate, too."""
        giga, sender = asking(Canned(SHORT), cert="me.pem")
        assert read(giga.stream(QUESTION)).text
        assert sender.calls[0].authorization == "Bearer some-token"

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The certificate and its key are named by the official client's variables."""
        monkeypatch.setenv("GIGACHAT_CERT_FILE", "me.crt")
        assert GigaChat().cert == "me.crt"
        monkeypatch.setenv("GIGACHAT_KEY_FILE", "me.key")
        assert GigaChat().cert == ("me.crt", "me.key")

    def test_of_a_session(
        self, ca: trustme.CA, raw_server: RawServerFactory, tmp_path: Path
    ) -> None:
        """A session's certificate lets it in over mutual TLS, without a key."""
        context = server_context(ca)
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        body = http_response(200, {"Content-Type": "text/event-stream"}, SHORT)
        server = raw_server(body, tls=context)
        own = ca.issue_cert("me@example.com")
        own.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "me.pem"))
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        session = requests.Session()
        session.cert, session.verify = str(tmp_path / "me.pem"), str(tmp_path / "ca.pem")
        url = f"https://127.0.0.1:{server.port}/v1"
        with GigaChat(base_url=url, session=session) as giga:
            assert giga.complete(QUESTION).text
        assert server.requests[0].header("authorization") is None


def refusal(key: str) -> AuthenticationError:
    """Why a key cannot be one."""
    with pytest.raises(AuthenticationError) as caught:
        GigaChat(api_key=key).check_credentials()
    return caught.value


class TestPastedKeys:
    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            (f'"{KEY}"', "quotation marks"),
            (f"'{KEY}'", "quotation marks"),
            (f"“{KEY}”", "quotation marks"),
            (f"«{KEY}", "quotation marks"),
            (f"Basic {KEY}", "the word Basic"),
            (f"Authorization: Basic {KEY}", "the word Basic"),
            (f"Bearer {KEY}", "the word Bearer"),
            (f"GIGACHAT_CREDENTIALS={KEY}", "name of a variable"),
            (f"export GIGACHAT_CREDENTIALS={KEY}", "name of a variable"),
            (f"api_key: {KEY}", "name of a variable"),
            (KEY.rstrip("="), "Its end is missing"),
            ("eyJjdHkiOiJqd3QiLCJlbmMiOiJBMjU2.c29tZQ.dG9rZW4.aGVyZQ.ZW5k", "access_token="),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "access_token="),
            (f"{SECRET}7", "client secret"),
            (f"{ID}:{SECRET}", "the pair itself"),
            (base64.b64encode(SECRET.encode() * 2).decode(), "the client secret alone"),
            (f"{KEY[:40]}\n{KEY[40:]}", "line break: remove"),
            (f"{KEY[:40]} {KEY[40:]}", "a space"),
        ],
    )
    def test_a_hint_for_each(self, key: str, hint: str) -> None:
        """What was pasted in place of the key is told, without a letter of it."""
        said = str(refusal(key))
        assert hint in said
        for secret in (KEY[:12], KEY[-14:-2], SECRET[:12], ID[:12], "eyJ"):
            assert secret not in said

    @pytest.mark.parametrize("length", [31, 32])
    @pytest.mark.parametrize("start", ["client:", ""])
    def test_an_end_that_is_missing(self, start: str, length: int) -> None:
        """One or two signs at the end are missed, where the rest would be a pair with them."""
        key = base64.b64encode(start.ljust(length, "s").encode()).decode()
        assert key.endswith("=")
        said = str(refusal(key.rstrip("=")))
        assert (". Its end is missing" in said) is bool(start)
        assert said.endswith("/studio") is not bool(start)

    def test_the_key_itself(self) -> None:
        """A good key passes, with or without white space around it."""
        assert KEY.endswith("=")
        GigaChat(api_key=f" {KEY}\n").check_credentials()
