"""Vectors of texts, and image files as parts of messages, for OpenAI-compatible servers."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    GLM,
    AllProvidersFailed,
    Attempt,
    DeepSeek,
    FailoverClient,
    GigaChat,
    InvalidRequestError,
    ModelNotFoundError,
    OpenAICompatible,
    ProtocolError,
    Provider,
    RateLimitError,
    UnsupportedError,
    YandexGPT,
)
from llmproviders.providers._chat_requests import is_batch_too_large, with_images
from llmproviders.sandbox import Sandbox
from llmproviders.sandbox.services.openai_compatible import MOST_INPUTS
from tests.support.calls import Canned, Sender, canned, with_sender
from tests.support.golden import goldens
from tests.support.promise import read

SHORT = goldens("openaicompatible", name="short")[0]
LOCAL = "http://127.0.0.1:9/v1"
JSON = "application/json"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(10)
IMAGES = {
    "photo.txt": (PNG, "image/png"),
    "a.jpg": (b"\xff\xd8\xff\xe0" + bytes(9), "image/jpeg"),
    "b": (b"GIF89a" + bytes(9), "image/gif"),
    "old": (b"GIF87a" + bytes(9), "image/gif"),
    "c.webp": (b"RIFF\x04\x00\x00\x00WEBPVP8 ", "image/webp"),
}


def vectors(count: int) -> bytes:
    """A reply with so many vectors, each of which says its number."""
    data = [{"index": number, "embedding": [number, 0.5]} for number in range(count)]
    return json.dumps({"data": data}).encode()


class TestEmbed:
    def test_in_batches_and_in_order(self, sandbox: Sandbox) -> None:
        """More texts than the server takes at once come in their order; the size is remembered."""
        texts = [f"text {number}" for number in range(2 * MOST_INPUTS + 2)]
        with OpenAICompatible(**sandbox.provider_arguments("openai")) as provider:
            alone = [provider.embed(text)[0].vector for text in texts[:3]]
            before = sandbox.count("openai", "embeddings")
            vectors = [one.vector for one in provider.embed(texts)]
            assert vectors[:3] == alone
            assert len(vectors) == len(texts)
            assert len({tuple(vector) for vector in vectors}) == len(texts)
            asked = [len(r.json["input"]) for r in sandbox.requests if r.kind == "embeddings"]
            refused = [size for size in asked[before:] if size > MOST_INPUTS]
            provider.embed(texts)
            again = [len(r.json["input"]) for r in sandbox.requests if r.kind == "embeddings"]
        assert len(refused) == 2
        assert max(again[len(asked) :]) <= MOST_INPUTS

    def test_nothing_is_sent_for_nothing(self) -> None:
        """No texts give no vectors; a blank one and a number are refused before sending."""
        provider = with_sender(OpenAICompatible, sender := Sender(Canned()), base_url=LOCAL)
        assert provider.embed([], model="m") == []
        for texts in ([""], ["a", 7], None, 7, b"a"):
            with pytest.raises(InvalidRequestError, match="texts must be"):
                provider.embed(texts, model="m")  # type: ignore[arg-type]
        assert sender.calls == []

    def test_how_many_at_a_time(self) -> None:
        """256 texts go in one request; a server that takes fewer gets half of them, and so on."""
        too_many = InvalidRequestError("no", status_code=413, detail="the batch is too large")
        sizes = [128, 128, 128, 88]
        sender = Sender(too_many, *(Canned(vectors(size), JSON) for size in sizes))
        provider = with_sender(OpenAICompatible, sender, base_url=LOCAL, model="m")
        texts = [f"text {number}" for number in range(sum(sizes))]
        found = provider.embed(iter(texts))
        refused, *sent = (call.json["input"] for call in sender.calls)
        assert [len(batch) for batch in (refused, *sent)] == [256, *sizes]
        assert [text for batch in sent for text in batch] == texts
        assert [one.vector[0] for one in found] == [float(n) for size in sizes for n in range(size)]

    def test_one_that_is_too_large_alone(self) -> None:
        """A single text that is refused is the error; later calls send as many as before."""
        too_many = InvalidRequestError("no", status_code=413, detail="the batch is too large")
        sender = Sender(too_many, too_many, Canned(vectors(3), JSON))
        provider = with_sender(OpenAICompatible, sender, base_url=LOCAL, model="m")
        with pytest.raises(InvalidRequestError, match="no"):
            provider.embed(["a", "b", "c"])
        assert len(provider.embed(["a", "b", "c"])) == 3
        assert [len(call.json["input"]) for call in sender.calls] == [3, 1, 3]

    def test_it_takes_a_place(self) -> None:
        """Vectors are one of the requests that may run at a time."""
        replies = [Canned(SHORT.body), Canned(vectors(1), JSON)]
        provider = canned(OpenAICompatible, *replies, base_url=LOCAL, model="m", max_concurrency=1)
        with closing(provider.stream("Hi")) as stream:
            next(stream)
            with pytest.raises(RateLimitError, match="holds open itself"):
                provider.embed("a")
        assert len(provider.embed("a")) == 1

    def test_another_refusal_is_not_asked_again(self) -> None:
        """A 400 that is not about the size of the batch is the error."""
        refusal = InvalidRequestError("no", status_code=400, detail="no such dimension")
        provider = with_sender(
            OpenAICompatible, sender := Sender(refusal), base_url=LOCAL, model="m"
        )
        with pytest.raises(InvalidRequestError, match="no"):
            provider.embed(["a", "b"])
        assert len(sender.calls) == 1

    @pytest.mark.parametrize(
        ("status", "words", "too_large"),
        [
            (400, "input array has at most 16 items", True),
            (422, "Too many texts", True),
            (413, "the batch is too large", True),
            (500, "the batch is too large", False),
            (400, "the text is too long", False),
            (400, "the input length exceeds the context length", False),
            (400, "input is too large to process. increase the physical batch size", False),
            (413, None, False),
        ],
    )
    def test_which_refusal_is_about_the_batch(
        self, status: int, words: str | None, too_large: bool
    ) -> None:
        """It is one that speaks of the number of texts, with a status that means the request."""
        error = InvalidRequestError("no", status_code=status, detail=words)
        assert is_batch_too_large(error) is too_large

    @pytest.mark.parametrize(
        "answer",
        [
            {"error": {"message": "slow down", "code": 429}},
            {"data": None, "message": "Rate limit reached: slow down"},
        ],
    )
    def test_an_error_with_status_200(self, answer: Any) -> None:
        """It has the class of its words, and the wait and the id of the reply's headers."""
        body = json.dumps(answer).encode()
        reply = Canned(body, JSON, headers={"retry-after": "7"}, request_id="r7")
        provider = with_sender(OpenAICompatible, Sender(reply), base_url=LOCAL, model="m")
        with pytest.raises(RateLimitError, match="slow down") as caught:
            provider.embed("a", model="e")
        assert (caught.value.retry_after, caught.value.request_id) == (7, "r7")
        assert reply.closed

    @pytest.mark.parametrize(
        ("places", "order"),
        [
            ([{"index": 1}, {"index": 0}], [1, 0]),
            ([{"index": "1"}, {"index": "0"}], [1, 0]),
            ([{"index": 1.0}, {"index": 0.0}], [1, 0]),
            ([{}, {}], [0, 1]),
            ([{"index": None}, {"index": 1}], [0, 1]),
            ([{"index": "b"}, {"index": []}], [0, 1]),
            ([{"index": 0}, {"index": 0}], [0, 1]),
        ],
    )
    def test_forms_of_an_index(self, places: list[dict[str, Any]], order: list[float]) -> None:
        """Vectors stand in the order of their indexes, or as they came if they have none."""
        data = [{"embedding": [number], **place} for number, place in enumerate(places)]
        reply = Canned(json.dumps({"data": data}).encode(), JSON)
        for provider in (
            canned(OpenAICompatible, reply, base_url=LOCAL, model="m"),
            canned(GigaChat, reply, access_token="some-token"),
        ):
            found = provider.embed(["a", "b"])
            assert [one.vector for one in found] == [[number] for number in order]

    @pytest.mark.parametrize(
        "data",
        [
            [{"index": 0, "embedding": "AAAA"}],
            [{"index": 0, "embedding": [None]}],
            [{"index": 0}],
            [],
        ],
    )
    def test_what_is_no_vector(self, data: Any) -> None:
        """Another shape, and fewer vectors than texts, are errors, never wrong vectors."""
        reply = Canned(json.dumps({"data": data}).encode(), JSON)
        provider = canned(OpenAICompatible, reply, base_url=LOCAL, model="m", name="mine")
        with pytest.raises(ProtocolError) as caught:
            provider.embed("a")
        assert caught.value.provider == "mine"
        assert data or "the reply has 0 vectors for 1 texts" in str(caught.value)

    @pytest.mark.parametrize(
        ("kind", "arguments", "sent"),
        [
            (OpenAICompatible, {}, "text-embedding-3-small"),
            (OpenAICompatible, {"base_url": LOCAL, "model": "mine"}, "mine"),
            (GLM, {}, "embedding-3"),
            (YandexGPT, {"folder_id": "b1g"}, "emb://b1g/text-search-doc/latest"),
        ],
    )
    def test_the_usual_model(
        self, kind: type[OpenAICompatible], arguments: dict[str, Any], sent: str
    ) -> None:
        """Each service has its own; another server is asked for this instance's model."""
        reply = Canned(b'{"data": [{"index": 0, "embedding": [1, 0.5]}]}', JSON)
        provider = with_sender(kind, sender := Sender(reply), api_key="k", **arguments)
        assert provider.embed("a")[0].vector == [1.0, 0.5]
        assert sender.calls[0].json == {"model": sent, "input": ["a"]}

    def test_no_usual_model(self) -> None:
        """Without one, the call says to name one."""
        for provider in (DeepSeek(api_key="k"), OpenAICompatible(base_url=LOCAL)):
            for model in (None, ""):
                with pytest.raises(InvalidRequestError, match="model=") as caught:
                    provider.embed("a", model=model)
                assert caught.value.provider == provider.name

    def test_a_model_that_is_not_there(self) -> None:
        """The error names the model that was asked for vectors, not the one for chats."""
        gone = ModelNotFoundError("no such model", status_code=404)
        provider = canned(OpenAICompatible, gone, base_url=LOCAL, model="chat")
        with pytest.raises(ModelNotFoundError, match="has no model 'vectors': no such model"):
            provider.embed("a", model="vectors")

    def test_a_model_that_is_named(self) -> None:
        """It is asked for in place of the usual one."""
        for kind in (OpenAICompatible, GLM):
            sender = Sender(Canned(vectors(1), JSON))
            provider = with_sender(kind, sender, api_key="k", model="chat")
            provider.embed("a", model="mine")
            assert sender.calls[0].json["model"] == "mine"
            assert sender.calls[0].url == f"{kind.url}/embeddings"
            assert sender.calls[0].authorization == "Bearer k"


def parts_of(tmp_path: Path, *names: str) -> list[dict[str, Any]]:
    """The parts of the message that is sent with these files."""
    sender = Sender(Canned(SHORT.body))
    provider = with_sender(OpenAICompatible, sender, base_url=LOCAL)
    paths = [tmp_path / name for name in names]
    error = read(provider.stream("What is this?", attach=paths)).error
    if error is not None:
        assert sender.calls == []
        raise error
    parts: list[dict[str, Any]] = sender.calls[0].json["messages"][-1]["content"]
    return parts


def attempts_of(client: FailoverClient, prompt: Any, **params: Any) -> tuple[Attempt, ...]:
    """What was tried, whether or not somebody answered."""
    try:
        return client.complete(prompt, **params).attempts
    except AllProvidersFailed as error:
        return error.attempts


class TestImages:
    def test_files_are_sent_as_they_are(self, tmp_path: Path) -> None:
        """Each file is a part after the text, its type told by its content, not its name."""
        for name, (data, _) in IMAGES.items():
            (tmp_path / name).write_bytes(data)
        text, *images = parts_of(tmp_path, *IMAGES)
        assert text == {"type": "text", "text": "What is this?"}
        for image, (data, kind) in zip(images, IMAGES.values(), strict=True):
            start, _, content = image["image_url"]["url"].partition(",")
            assert (image["type"], start) == ("image_url", f"data:{kind};base64")
            assert b64decode(content) == data

    def test_they_go_with_the_last_question(self, tmp_path: Path) -> None:
        """Files stand behind the parts of the last message of the user, which keeps the rest."""
        (tmp_path / "a.png").write_bytes(PNG)
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}}
        first = {"role": "user", "content": "First?"}
        last = {"role": "user", "content": [picture], "name": "me"}
        said = {"role": "assistant", "content": "Yes."}
        for before in ([first, said, last, said], [last, said]):
            sender = Sender(Canned(SHORT.body))
            provider = with_sender(OpenAICompatible, sender, base_url=LOCAL)
            assert read(provider.stream(before, attach=[tmp_path / "a.png"])).text
            *others, asked, after = sender.calls[0].json["messages"]
            assert [*others, after] == [m for m in before if m is not last]
            assert (asked["name"], asked["content"][0]) == ("me", picture)
            assert len(asked["content"]) == 2
        sender = Sender(Canned())
        provider = with_sender(OpenAICompatible, sender, base_url=LOCAL)
        error = read(provider.stream([said], attach=[tmp_path / "a.png"])).error
        assert isinstance(error, InvalidRequestError)
        assert "user message" in str(error)
        assert sender.calls == []

    @pytest.mark.parametrize("kind", [OpenAICompatible, GLM, YandexGPT, DeepSeek])
    def test_refused_before_a_place_is_waited_for(
        self, kind: type[OpenAICompatible], tmp_path: Path
    ) -> None:
        """What the provider cannot take leads to the next one at once, though it is busy."""
        more = {"folder_id": "b1g"} if kind is YandexGPT else {}
        sender = Sender(Canned(SHORT.body))
        first = with_sender(kind, sender, api_key="k", max_concurrency=1, base_url=LOCAL, **more)
        second = with_sender(OpenAICompatible, Sender(Canned(SHORT.body)), base_url=LOCAL, name="b")
        client = FailoverClient([first, second], deadline=5.0)
        of_gigachat: dict[str, Any] = {"role": "user", "content": "Why?", "attachments": ["id"]}
        function = {"type": "function", "function": {"name": "f", "parameters": {}}}
        refused: list[tuple[Any, dict[str, Any]]] = [("Why?", {"attach": tmp_path / "gone.png"})]
        if kind in (GLM, DeepSeek):
            refused += [("Why?", {"tools": [function], "tool_choice": "required"})]
        # While the stream is open, another request would wait for its place.
        with closing(first.stream("Why?")) as stream:
            next(stream)
            for prompt, params in refused:
                attempts = attempts_of(client, prompt, **params)
                assert isinstance(attempts[0].error, InvalidRequestError)
                assert attempts[0].waited == 0.0
            error = attempts_of(client, [of_gigachat])[0].error
            assert isinstance(error, UnsupportedError)
        assert len(sender.calls) == 1

    def test_in_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """``~`` in a path is the home folder."""
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "a.png").write_bytes(PNG)
        assert len(parts_of(Path("~"), "a.png")) == 2

    def test_one_that_is_just_small_enough(self, tmp_path: Path) -> None:
        """A picture of 20 MiB is read."""
        path = tmp_path / "a.png"
        path.write_bytes(PNG)
        os.truncate(path, 20 * 1024 * 1024)
        (message,) = with_images([{"role": "user", "content": "Hi"}], [str(path)])
        assert len(message["content"]) == 2

    def test_what_cannot_be_attached(self, tmp_path: Path) -> None:
        """A missing file, a folder, a pipe, another type and too large a file are not sent."""
        (tmp_path / "page.pdf").write_bytes(b"%PDF-1.7")
        (tmp_path / "sound.webp").write_bytes(b"RIFF\x04\x00\x00\x00WAVEfmt ")
        (tmp_path / "no.webp").write_bytes(b"FFIR\x04\x00\x00\x00WEBPVP8 ")
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        with (tmp_path / "huge.png").open("wb") as huge:
            huge.truncate(30 * 1024 * 1024)
        for name, words in (
            ("gone.png", "cannot be read: No such file"),
            ("folder", "cannot be read"),
            ("pipe", "cannot be read"),
            ("huge.png", "larger than 20 MiB"),
            *((name, "not a JPEG") for name in ("page.pdf", "sound.webp", "no.webp")),
        ):
            with pytest.raises(InvalidRequestError, match=words) as caught:
                parts_of(tmp_path, name)
            assert name in str(caught.value)
            # Another provider may take files of that type.
            assert isinstance(caught.value, UnsupportedError) is (words == "not a JPEG")

    def test_the_sandbox_tells_them_back(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """It says the type and the size of what it got, of every such service."""
        (tmp_path / "a.png").write_bytes(PNG)
        for name, kind in (("openai", OpenAICompatible), ("glm", GLM), ("deepseek", DeepSeek)):
            provider: Provider = kind(**sandbox.provider_arguments(name))
            with provider:
                said = str(provider.complete("What?", attach=str(tmp_path / "a.png")))
            assert f"[image/png, {len(PNG)} bytes]" in said
