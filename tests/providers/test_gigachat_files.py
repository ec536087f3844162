"""GigaChat's files: uploaded once, asked about, fetched, drawn, and refused before sending."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from llmproviders import (
    FailoverClient,
    GigaChat,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
)
from llmproviders._environment import uploads_file
from llmproviders.errors import UnsupportedError
from llmproviders.providers.gigachat import UploadedFile, _files
from llmproviders.providers.gigachat._files import Attachment, DrawnImages
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.sandbox.test_sandbox_official import gigachat_client
from tests.support.calls import Canned, Sender, with_sender
from tests.support.http_bytes import http_response
from tests.support.processes import Child
from tests.support.promise import read
from tests.support.rawserver import keep_alive

PNG = b"\x89PNG\r\n\x1a\n--boundary\r\n\r\n\x00\xff not really a picture"
QUESTION = "What is in it?"
DRAWN = "9f3c6f2f-0c5b-4d4e-8d0a-4f436ad8a4b1"
LISTED = {
    "id": DRAWN,
    "object": "file",
    "filename": "a.png",
    "bytes": 120,
    "created_at": 1_760_000_000,
    "purpose": "general",
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file that goes by for a picture."""
    path = tmp_path / 'пейзаж "1".png'
    path.write_bytes(PNG)
    return path


def giga_of(sandbox: Sandbox, **arguments: Any) -> GigaChat:
    """A GigaChat that speaks to the sandbox."""
    return GigaChat(**sandbox.provider_arguments("gigachat"), **arguments)


def kinds(sandbox: Sandbox) -> list[str]:
    """What was asked, in order, but for tokens."""
    return [request.kind for request in sandbox.requests if request.kind != "token"]


class TestCalls:
    def test_all_four(self, sandbox: Sandbox, picture: Path) -> None:
        """A file is uploaded, listed, fetched as it was, and deleted."""
        with giga_of(sandbox) as giga:
            uploaded = giga.upload(picture)
            assert isinstance(uploaded, UploadedFile)
            assert (uploaded.bytes, uploaded.purpose) == (len(PNG), "general")
            assert giga.files() == [uploaded]
            assert giga.download(uploaded.id) == PNG
            giga.delete(uploaded.id)
            assert giga.files() == []
            assert len({request.connection for request in sandbox.requests}) == 1
            with pytest.raises(LLMError, match="File not found") as caught:
                giga.download(uploaded.id)
            assert giga.base_url not in str(caught.value)

    def test_an_id_stays_in_its_place(self, sandbox: Sandbox) -> None:
        """Whatever is given for an id, no other address is asked."""
        with giga_of(sandbox) as giga:
            for call in (giga.download, giga.delete):
                with pytest.raises(LLMError):
                    call("../models")
        assert kinds(sandbox) == ["files", "files"]

    def test_a_large_file(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A document of many megabytes goes up and comes back whole."""
        path = tmp_path / "book.pdf"
        content = os.urandom(1024) * 20_000
        path.write_bytes(content)
        with giga_of(sandbox) as giga:
            assert giga.download(giga.upload(path).id) == content

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("cat.gif", b"GIF", "takes no file such as 'cat.gif'"),
            ("noextension", b"x", "takes no file"),
            ("empty.png", b"", "is empty"),
            ("large.png", 15_000_001, "15 MB of image"),
            ("large.mp3", 35_000_001, "35 MB of audio"),
            ("large.txt", 40_000_001, "40 MB of text"),
            ("missing.png", None, "cannot be read"),
            ("folder.png", "folder", "cannot be read"),
            ("pipe.png", "pipe", "not a plain file"),
        ],
    )
    def test_refused_before_sending(
        self, sandbox: Sandbox, tmp_path: Path, name: str, content: Any, words: str
    ) -> None:
        """What cannot be sent is refused at once, by ``upload`` and by ``attach``."""
        path = tmp_path / name
        if content == "folder":
            path.mkdir()
        elif content == "pipe":
            os.mkfifo(path)
        elif isinstance(content, int):
            with path.open("wb") as file:
                file.truncate(content)
        elif content is not None:
            path.write_bytes(content)
        with giga_of(sandbox) as giga:
            with pytest.raises(InvalidRequestError, match=words):
                giga.upload(path)
            with pytest.raises(InvalidRequestError, match=words):
                giga.complete(QUESTION, attach=[path])
        assert sandbox.requests == []

    def test_what_is_told_of_one(self) -> None:
        """Each field comes as the service has it, but for what looks like a key."""
        entry = {**LISTED, "filename": "https://me:hunter22@x.example/a.png"}
        for answer in ({"data": [entry]}, [entry]):
            reply = Canned(json.dumps(answer).encode(), "application/json")
            (found,) = with_sender(GigaChat, Sender(reply), access_token="some-token").files()
            assert found == UploadedFile(
                id=DRAWN,
                filename="https://***@x.example/a.png",
                bytes=120,
                created_at=1_760_000_000,
                purpose="general",
            )

    @pytest.mark.parametrize("field", ["id", "filename", "bytes", "created_at", "purpose"])
    def test_a_field_that_is_none(self, field: str) -> None:
        """An entry without one of its fields, or with one of another type, is an error."""
        whole = type(LISTED[field]) is int
        for value, words in (
            (None, f"has NoneType where {field} was due"),
            ([], f"has list where {field} was due"),
            (-1, f"where {field} was due that cannot be one" if whole else f"int where {field}"),
        ):
            answer = json.dumps([{**LISTED, field: value}]).encode()
            client = with_sender(
                GigaChat, Sender(Canned(answer, "application/json")), access_token="some-token"
            )
            with pytest.raises(ProtocolError, match=words):
                client.files()

    @pytest.mark.parametrize("call", ["upload", "attach", "download", "delete", "files"])
    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            ({"status": 429, "message": "Too Many Requests"}, RateLimitError),
            ({"error": {"message": "Insufficient balance"}}, QuotaExceededError),
            ({"code": 503, "message": "busy"}, ServerError),
        ],
    )
    def test_an_error_with_status_200(
        self, picture: Path, call: str, answer: Any, kind: type[LLMError]
    ) -> None:
        """It is raised by its own class and words, with the wait of the reply's headers."""
        body, headers = json.dumps(answer).encode(), {"retry-after": "7"}
        reply = Canned(body, "application/json", headers=headers, request_id="r7")
        client = with_sender(GigaChat, Sender(*[reply] * 3), access_token="some-token")
        calls: dict[str, Callable[[], object]] = {
            "upload": lambda: client.upload(picture),
            "attach": lambda: client.complete("?", attach=[picture]),
            "download": lambda: client.download(DRAWN),
            "delete": lambda: client.delete(DRAWN),
            "files": client.files,
        }
        with pytest.raises(kind) as caught:
            calls[call]()
        assert (answer.get("error") or answer)["message"] in str(caught.value)
        assert reply.closed
        if call != "attach":
            assert caught.value.request_id == "r7"
            assert caught.value.retry_after == (7 if caught.value.retryable else None)

    def test_a_file_that_looks_like_an_error(self) -> None:
        """A text file comes as it is, whatever is in it, and so does JSON that is no error."""
        for content, label in (
            (b'{"status": 429, "message": "Too Many Requests"}', "text/plain"),
            (b'{"status": 429, "message": "Too Many Requests"}', "application/octet-stream"),
            (b'{"message": "Hello"}', "application/json"),
            (b"{", "application/json"),
        ):
            client = with_sender(GigaChat, Sender(Canned(content, label)), access_token="a-token")
            assert client.download(DRAWN) == content

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b" \n", b"OK\n", b'"deleted"', b"true", b"null", b"[]", b"{}"),
            *(b'{"id": "x", "deleted": true}', b'{"id": "x", "message": "The file is deleted"}'),
        ],
    )
    def test_what_a_deletion_answers(self, body: bytes) -> None:
        """Nothing, a word, and an object without an error mean that the file is gone."""
        reply = Canned(body, "application/json")
        with_sender(GigaChat, Sender(reply), access_token="some-token").delete(DRAWN)
        assert reply.finished

    @pytest.mark.parametrize(
        ("body", "kind", "words"),
        [
            (b"Rate limit reached, try again in 20 s", RateLimitError, "Rate limit reached"),
            (b'"Permission denied for this file"', ServerError, "Permission denied"),
            (b"The disk is full", ServerError, "The disk is full"),
            (b"\n<html><title>Log in</title></html>", ProtocolError, r"web page.*Log in"),
            (b'{"id": "x", "deleted": false}', ServerError, "was not deleted"),
            (b'{"success": false}', ServerError, "was not deleted"),
            (b'{"deleted": false, "message": "busy", "id": "x"}', ServerError, "deleted: .*busy"),
            (b"false", ProtocolError, "bool"),
            (b'["Rate limit reached"]', ProtocolError, "list"),
            (b'{"id": ', ProtocolError, "JSON"),
        ],
    )
    def test_a_deletion_that_did_not_happen(
        self, picture: Path, body: bytes, kind: type[LLMError], words: str
    ) -> None:
        """Whatever else is answered is an error, and the file is not forgotten here."""
        said = {"choices": [{"message": {"content": "A cat."}, "finish_reason": "stop"}]}
        replies = [Canned(json.dumps(one).encode(), "application/json") for one in (LISTED, said)]
        sender = Sender(*replies, Canned(body, "text/plain"))
        client = with_sender(GigaChat, sender, access_token="some-token")
        client.complete(QUESTION, attach=[picture])
        with pytest.raises(kind, match=words) as caught:
            client.delete(DRAWN)
        assert type(caught.value) is kind
        assert DRAWN in uploads_file().read_text()

    @pytest.mark.parametrize("field", ["filename", "bytes", "created_at", "purpose"])
    def test_only_the_id_is_needed(
        self, raw_server: RawServerFactory, picture: Path, field: str
    ) -> None:
        """A file that is attached needs no more of the upload's answer than its id."""
        answer = {name: value for name, value in LISTED.items() if name != field}
        said = {"choices": [{"message": {"content": "A cat."}, "finish_reason": "stop"}]}
        replies = [
            http_response(200, {"Content-Type": "application/json"}, json.dumps(one).encode())
            for one in (answer, said)
        ]
        server = raw_server(keep_alive(*replies))
        with GigaChat(base_url=f"{server.url}/v1", access_token="some-token") as giga:
            assert giga.complete(QUESTION, attach=[picture]).text == "A cat."

    @pytest.mark.parametrize("call", ["upload", "download", "delete"])
    def test_what_to_do_about_a_file(
        self, raw_server: RawServerFactory, picture: Path, call: str
    ) -> None:
        """An error names the file that the service lacks, or that is too large for it."""
        status, said = (413, "is too large") if call == "upload" else (404, "the service has no")
        body = json.dumps({"status": status, "message": "Not Found"}).encode()
        server = raw_server(http_response(status, {"Content-Type": "application/json"}, body))
        name = picture.name if call == "upload" else DRAWN
        with (
            GigaChat(base_url=f"{server.url}/v1", access_token="some-token") as giga,
            pytest.raises(InvalidRequestError) as caught,
        ):
            getattr(giga, call)(picture if call == "upload" else name)
        error = caught.value
        assert said in str(error)
        assert repr(name) in str(error)
        assert "prompt" not in str(error)
        assert (error.status_code, error.detail) == (status, "Not Found")

    @pytest.mark.parametrize("size", [40_000_000, 40_000_001])
    def test_the_largest_content(self, size: int) -> None:
        """What is larger than any file that the service keeps is an error, not a part of it."""
        reply = Canned(bytes(size), "application/octet-stream")
        client = with_sender(GigaChat, Sender(reply), access_token="some-token")
        if size == 40_000_000:
            assert len(client.download(DRAWN)) == size
        else:
            with pytest.raises(ProtocolError, match="larger than 40000000 bytes"):
                client.download(DRAWN)

    def test_a_content_without_end(self) -> None:
        """Of a content that does not end no more is read than tells that it is too large."""

        class Endless(Canned):
            def read(self, limit: int | None = None) -> bytes:
                """As much as is asked for."""
                assert limit is not None
                return bytes(limit)

        client = with_sender(GigaChat, Sender(Endless()), access_token="some-token")
        with pytest.raises(ProtocolError, match="larger than 40000000 bytes"):
            client.download(DRAWN)

    def test_the_official_client_reads_them(self, sandbox: Sandbox, picture: Path) -> None:
        """The official client lists, fetches and asks about what was uploaded here."""
        with giga_of(sandbox) as giga, gigachat_client(sandbox) as official:
            uploaded = giga.upload(picture)
            (listed,) = official.get_files().data
            assert (listed.id_, listed.filename) == (uploaded.id, uploaded.filename)
            message = {"role": "user", "content": QUESTION, "attachments": [uploaded.id]}
            reply = official.chat({"messages": [message]}).choices[0].message.content
            assert f"image/png of {len(PNG)} bytes" in reply
            theirs = official.upload_file(("note.txt", b"A note.", "text/plain"))
            assert giga.download(theirs.id_) == b"A note."


class TestAttachment:
    @pytest.mark.parametrize(
        ("url", "name", "media_type", "content"),
        [
            ("data:image/jpeg;base64,AAEC", "attachment.jpg", "image/jpeg", b"\0\1\2"),
            ("data: Image/TIFF ;x=y;BASE64,AAEC", "attachment.tif", "image/tiff", b"\0\1\2"),
            ("data:audio/mp4;base64,AAEC", "attachment.mp4", "audio/mp4", b"\0\1\2"),
            ("data:audio/mp3;base64,AAEC", "attachment.mp3", "audio/mpeg", b"\0\1\2"),
            ("data:image/jpg;base64,AAEC", "attachment.jpg", "image/jpeg", b"\0\1\2"),
            ("data:text/plain;charset=utf-8,%D0%96,%0A;", "attachment.txt", "text/plain", b"Z"),
            ("data:,Hi\n", "attachment.txt", "text/plain", b"Hi\n"),
            ("data:;base64;x,AAEC", "attachment.txt", "text/plain", b"AAEC"),
            ("data:image/png,AAEC", "attachment.png", "image/png", b"AAEC"),
            ("data:image/bmp;base64,QUI%3D", "attachment.bmp", "image/bmp", b"AB"),
        ],
    )
    def test_of_a_data_url(self, url: str, name: str, media_type: str, content: bytes) -> None:
        """Any form of such a URL gives its bytes, with a name from which the type is told."""
        found = Attachment.of_url(url)
        due = content if content != b"Z" else "Ж,\n;".encode()
        assert (found.name, found.media_type, found.read()) == (name, media_type, due)
        assert found.is_image is media_type.startswith("image/")

    def test_one_that_is_too_large(self) -> None:
        """The limit is that of its kind, in bytes."""
        with pytest.raises(InvalidRequestError, match=r"15000001 bytes.* 15 MB of image"):
            Attachment.of_url("data:image/png," + "a" * 15_000_001)
        assert len(Attachment.of_url("data:image/png," + "a" * 15_000_000).read()) == 15_000_000

    @pytest.mark.parametrize("name", ["a.PNG", "archive.tar.png", ".png"])
    def test_the_last_extension_counts(self, tmp_path: Path, name: str) -> None:
        """Its type is told by what follows the last dot, in any case."""
        (tmp_path / name).write_bytes(PNG)
        found = Attachment.of_path(tmp_path / name)
        assert (found.name, found.media_type, found.read()) == (name, "image/png", PNG)

    def test_in_the_home_folder(self, home: Path) -> None:
        """A tilde is the user's home."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "note.txt").write_text("A note.")
        found = Attachment.of_path("~/note.txt")
        assert (found.name, found.read(), found.is_image) == ("note.txt", b"A note.", False)

    def test_gone_or_grown_meanwhile(self, tmp_path: Path) -> None:
        """What can no longer be read, or is too large by now, is told with its path."""
        path = tmp_path / "note.png"
        path.write_bytes(PNG)
        found = Attachment.of_path(path)
        with path.open("r+b") as file:
            file.truncate(15_000_000)
        assert len(found.read()) == 15_000_000
        with path.open("r+b") as file:
            file.truncate(15_000_001)
        with pytest.raises(InvalidRequestError, match=f"{path}.* cannot be read: "):
            found.read()
        path.unlink()
        with pytest.raises(InvalidRequestError, match=f"{path}.* cannot be read: No such file"):
            found.read()

    def test_no_path(self) -> None:
        """A path that no file can have is told as the argument that it is."""
        with pytest.raises(InvalidRequestError, match="cannot be read: attach: no file"):
            Attachment.of_path("a\0b.png")


class TestAttach:
    def test_once_for_two_questions(self, sandbox: Sandbox, picture: Path) -> None:
        """A picture is uploaded once for two questions, of two clients, under two names too."""
        copy = picture.with_name("copy.png")
        copy.write_bytes(PNG)
        with giga_of(sandbox) as first, giga_of(sandbox) as second:
            reply = first.complete(QUESTION, attach=[picture])
            second.complete([{"role": "user", "content": QUESTION}], attach=[str(copy)])
        assert f"image/png of {len(PNG)} bytes" in reply.text
        assert kinds(sandbox) == ["files", "chat", "chat"]
        sent = [request.json["messages"] for request in sandbox.requests if request.kind == "chat"]
        assert sent[0] == sent[1]
        (message,) = sent[0]
        assert message["content"] == QUESTION
        assert len(message["attachments"]) == 1

    def test_a_data_url(self, sandbox: Sandbox, picture: Path) -> None:
        """A picture in a part is the same file as the one that was attached."""
        url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        parts = [
            {"type": "text", "text": QUESTION},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        with giga_of(sandbox) as giga:
            giga.complete(QUESTION, attach=[picture])
            giga.complete([{"role": "user", "content": parts}])
        assert kinds(sandbox) == ["files", "chat", "chat"]
        first, second = (r.json["messages"] for r in sandbox.requests if r.kind == "chat")
        assert first == second

    def test_once_from_two_processes(self, picture: Path) -> None:
        """Two processes at the same moment upload it once between them."""
        with Sandbox(gigachat_scope="GIGACHAT_API_B2B") as sandbox:
            sandbox.fail("gigachat", drip_s=0.002, on="files")

            def ask() -> None:
                with giga_of(sandbox) as giga:
                    assert "image/png" in giga.complete(QUESTION, attach=[picture]).text

            children = [Child(ask) for _ in range(2)]
            for child in children:
                child.wait()
            assert sorted(kinds(sandbox)) == ["chat", "chat", "files"]

    def test_accounts_do_not_share(self, sandbox: Sandbox, picture: Path) -> None:
        """What one account uploaded is not taken for another's."""
        with giga_of(sandbox) as giga:
            giga.complete(QUESTION, attach=[picture])
            token = sandbox.requests[-1].headers["authorization"].removeprefix("Bearer ")
            with giga_of(sandbox, access_token=token) as other:
                other.complete(QUESTION, attach=[picture])
        assert kinds(sandbox) == ["files", "chat", "files", "chat"]

    @pytest.mark.parametrize("place", ["headers", "extra_headers", "session"])
    def test_clients_do_not_share(self, sandbox: Sandbox, picture: Path, place: str) -> None:
        """A file belongs to the ``X-Client-ID`` that is sent, wherever that is given.

        It is uploaded for the client whose chat refers to it, once.
        """
        for client in ("one", "two", "one"):
            named = {"X-Client-ID": client}
            session = requests.Session()
            session.headers.update(named if place == "session" else {})
            given = {"headers": {"x-client-id": client}} if place == "headers" else {}
            asked = {"extra_headers": named} if place == "extra_headers" else {}
            with session, giga_of(sandbox, session=session, **given) as giga:
                reply = giga.complete(QUESTION, attach=[picture], **asked)
            assert f"image/png of {len(PNG)} bytes" in reply.text
        assert kinds(sandbox) == ["files", "chat", "files", "chat", "chat"]

    def test_which_client_is_named(self, sandbox: Sandbox, picture: Path) -> None:
        """Of several clients a file belongs to the call's, else to the provider's own."""
        with requests.Session() as session:
            session.headers["X-Client-ID"] = "session"
            with giga_of(sandbox, session=session, headers={"X-Client-ID": "own"}) as giga:
                giga.complete(QUESTION, attach=[picture], extra_headers={"X-Client-ID": "call"})
                giga.complete(QUESTION, attach=[picture])
        for client in ("call", "own"):
            with giga_of(sandbox, headers={"X-Client-ID": client}) as giga:
                giga.complete(QUESTION, attach=[picture])
        assert kinds(sandbox) == ["files", "chat", "files", "chat", "chat", "chat"]

    def test_gone(self, sandbox: Sandbox, picture: Path) -> None:
        """A file that the service no longer has is uploaded anew, within the same call."""
        with giga_of(sandbox) as giga, gigachat_client(sandbox) as official:
            giga.complete(QUESTION, attach=[picture])
            official.delete_file(giga.files()[0].id)
            assert giga.complete(QUESTION, attach=[picture]).text
            assert giga.complete(QUESTION, attach=[picture]).text
        assert kinds(sandbox)[-4:] == ["chat", "files", "chat", "chat"]

    def test_denied(self, sandbox: Sandbox, picture: Path) -> None:
        """So is one that the service denies access to; once, then the error is told."""
        with giga_of(sandbox) as giga:
            giga.complete(QUESTION, attach=[picture])
            sandbox.fail("gigachat", status=403)
            assert giga.complete(QUESTION, attach=[picture]).text
            sandbox.fail("gigachat", status=403, times=2)
            with pytest.raises(LLMError, match="denies access"):
                giga.complete(QUESTION, attach=[picture])
        assert kinds(sandbox).count("files") == 3

    def test_the_model_is_gone(self, sandbox: Sandbox, picture: Path) -> None:
        """A 404 that is about the model is no matter of the file's, which stays where it is."""
        sandbox.fail("gigachat", status=404, body={"status": 404, "message": "No such Model"})
        with giga_of(sandbox) as giga, pytest.raises(ModelNotFoundError):
            giga.complete(QUESTION, attach=[picture], model="GigaChat-2-Max")
        assert kinds(sandbox) == ["files", "chat", "models"]

    def test_an_id_that_the_caller_gave(self, sandbox: Sandbox) -> None:
        """A file of the caller's own message that is gone is no missing model."""
        message = {"role": "user", "content": QUESTION, "attachments": [DRAWN]}
        with giga_of(sandbox) as giga, pytest.raises(LLMError, match="File not found") as caught:
            giga.complete([message])
        assert type(caught.value) is InvalidRequestError
        assert kinds(sandbox) == ["chat"]

    def test_a_token_that_died_before_the_upload(self, sandbox: Sandbox, picture: Path) -> None:
        """A token that an upload finds expired is renewed within the call."""
        with giga_of(sandbox) as giga:
            giga.complete(QUESTION)
            sandbox.expire_tokens()
            assert giga.complete(QUESTION, attach=[picture]).text
        assert sandbox.count("gigachat", "token") == 2

    def test_a_refused_key_is_asked_once(self, sandbox: Sandbox, picture: Path) -> None:
        """A key that the token service refuses is not tried again for an upload."""
        sandbox.fail("gigachat", status=401, on="token", times=3)
        with giga_of(sandbox) as giga, pytest.raises(LLMError, match="refused the authorization"):
            giga.complete(QUESTION, attach=[picture])
        assert sandbox.count("gigachat", "token") == 1

    def test_deleted_here(self, sandbox: Sandbox, picture: Path) -> None:
        """What was deleted by ``delete`` is not referred to again."""
        with giga_of(sandbox) as giga:
            giga.complete(QUESTION, attach=[picture])
            giga.delete(giga.files()[0].id)
            giga.complete(QUESTION, attach=[picture])
        assert kinds(sandbox)[-2:] == ["files", "chat"]

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": 9, "files": {}}', b"[" * 9999])
    def test_a_damaged_memory(self, sandbox: Sandbox, picture: Path, content: bytes) -> None:
        """A damaged memory costs an upload, never the call, and is not overwritten."""
        path = uploads_file()
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        path.chmod(0o600)
        with giga_of(sandbox) as giga:
            for _ in range(2):
                assert giga.complete(QUESTION, attach=[picture]).text
        assert path.read_bytes() == content
        assert kinds(sandbox).count("files") == 2

    def test_an_id_that_is_none(self, sandbox: Sandbox, picture: Path) -> None:
        """What stands in the memory in place of an id is not sent."""
        with giga_of(sandbox) as giga:
            giga.complete(QUESTION, attach=[picture])
            content = json.loads(uploads_file().read_bytes())
            content["files"] = dict.fromkeys(content["files"], 7)
            uploads_file().write_text(json.dumps(content))
            for _ in range(2):
                assert giga.complete(QUESTION, attach=[picture]).text
        assert kinds(sandbox) == ["files", "chat", "files", "chat", "chat"]

    def test_one_content_of_two_types(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """The same bytes as another type of file are another file."""
        for name in ("a.txt", "a.pdf", "b.txt"):
            (tmp_path / name).write_bytes(b"%PDF-1.7")
        with giga_of(sandbox) as giga:
            for name in ("a.txt", "a.pdf", "b.txt"):
                giga.complete(QUESTION, attach=[tmp_path / name])
        assert kinds(sandbox) == ["files", "chat", "files", "chat", "chat"]

    def test_the_memory_is_bounded(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of many files the latest are remembered."""
        monkeypatch.setattr(_files, "_MOST_REMEMBERED", 2)
        paths = [tmp_path / f"{number}.txt" for number in range(3)]
        with giga_of(sandbox) as giga:
            for path in paths:
                path.write_text(path.name)
                giga.complete(QUESTION, attach=[path])
            before = sandbox.count("gigachat", "files")
            giga.complete(QUESTION, attach=paths[1:])
            assert sandbox.count("gigachat", "files") == before
            giga.complete(QUESTION, attach=paths[::-1])
            assert sandbox.count("gigachat", "files") == before + 1

    def test_no_place_for_the_memory(
        self,
        sandbox: Sandbox,
        picture: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Where nothing can be remembered, a file is uploaded each time, and that is told once."""
        (tmp_path / "plain").touch()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "plain" / "below"))
        with giga_of(sandbox) as giga:
            for _ in range(2):
                assert giga.complete(QUESTION, attach=[picture]).text
            giga.delete(giga.files()[0].id)
        assert kinds(sandbox)[:4] == ["files", "chat", "files", "chat"]
        (told,) = [m for m in caplog.messages if m.startswith(str(uploads_file()))]
        assert "Not a directory" in told

    def test_what_is_forgotten(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A file that is deleted is forgotten, and no other."""
        paths = [tmp_path / f"{number}.txt" for number in range(2)]
        with giga_of(sandbox) as giga:
            for path in paths:
                path.write_text(path.name)
                giga.complete(QUESTION, attach=[path])
            giga.delete(next(one.id for one in giga.files() if one.filename == "0.txt"))
            for path in reversed(paths):
                giga.complete(QUESTION, attach=[path])
        assert kinds(sandbox)[-3:] == ["chat", "files", "chat"]

    def test_the_memory_is_private(self, sandbox: Sandbox, picture: Path) -> None:
        """The memory is open to its user alone, and holds neither a name nor a key."""
        with giga_of(sandbox) as giga:
            giga.complete(QUESTION, attach=[picture])
        text = uploads_file().read_text()
        assert stat.S_IMODE(uploads_file().stat().st_mode) == 0o600
        assert picture.name not in text
        assert sandbox.provider_arguments("gigachat")["api_key"] not in text

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("https://example.com/cat.png", "by its address"),
            ("data:image/webp;base64,AAAA", "takes no file"),
            ("data:image/png;base64,***", "data of a data: URL"),
            ("data:image/png;base64", "no comma"),
            ("data:image/png,", "is empty"),
        ],
    )
    def test_images_that_it_does_not_take(self, sandbox: Sandbox, url: str, words: str) -> None:
        """An image that cannot be sent is refused, and the next provider is asked."""
        prompt = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        with giga_of(sandbox) as giga:
            with pytest.raises(InvalidRequestError, match=words):
                giga.complete(prompt)
            client = FailoverClient([giga, ScriptedProvider(["second"])])
            assert str(client.complete(prompt)) == "second"
        assert sandbox.requests == []

    def test_too_many_images(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """More than one image a message, or ten a request, are refused before sending."""
        paths = [tmp_path / f"{number}.png" for number in range(2)]
        for number, path in enumerate(paths):
            path.write_bytes(b"%d" % number)
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        with giga_of(sandbox) as giga:
            with pytest.raises(UnsupportedError, match="one image a message"):
                giga.complete(QUESTION, attach=paths[::-1])
            with pytest.raises(UnsupportedError, match="10 images a request"):
                giga.complete([{"role": "user", "content": [image]}] * 11)
            assert sandbox.requests == []
            (tmp_path / "note.txt").write_text("A note.")
            giga.complete(QUESTION, attach=[paths[0], tmp_path / "note.txt"])
        assert len(sandbox.requests[-1].json["messages"][0]["attachments"]) == 2


def events(*pieces: str) -> bytes:
    """A stream with these pieces of text."""
    said = [{"delta": {"content": piece}, "index": 0} for piece in pieces]
    said.append({"delta": {"content": ""}, "index": 0, "finish_reason": "stop"})
    told = b"".join(b"data: " + json.dumps({"choices": [one]}).encode() + b"\n\n" for one in said)
    return told + b"data: [DONE]\n\n"


class TestDrawn:
    @pytest.mark.parametrize("stream", [True, False])
    def test_a_drawn_image(self, sandbox: Sandbox, stream: bool) -> None:
        """A drawn image leaves the text and stands in ``images``, with its bytes."""
        with giga_of(sandbox) as giga:
            pieces = list(
                giga.create_generator(
                    None, [{"role": "user", "content": "Draw a picture"}], stream=stream
                )
            )
            finish = pieces[-1]
            (image,) = finish.images  # type: ignore[attr-defined]
            assert image.bytes().startswith(b"\x89PNG")
        text = "".join(pieces)
        assert "Here it is:" in text
        assert text.endswith("It is blue.")
        assert "img" not in text

    @pytest.mark.parametrize("place", ["headers", "extra_headers", "session"])
    @pytest.mark.parametrize("several", [False, True])
    def test_drawn_for_a_client(self, sandbox: Sandbox, place: str, several: bool) -> None:
        """What was drawn for an ``X-Client-ID`` is fetched for it, wherever that was given."""
        named = {"X-Client-ID": "one"}
        session = requests.Session()
        session.headers.update(named if place == "session" else {})
        given = {"headers": named} if place == "headers" else {}
        asked = {"extra_headers": named} if place == "extra_headers" else {}
        with session, giga_of(sandbox, session=session, **given) as giga:
            client = FailoverClient([giga]) if several else giga
            for stream in (None, False):
                reply = client.complete("Draw a picture", stream=stream, **asked)
                (image,) = reply.finish_reason.images
                assert image.bytes().startswith(b"\x89PNG")

    def test_fetched_the_way_of_its_call(self, raw_server: RawServerFactory) -> None:
        """The bytes come the way that the chat went: through the proxy that the call named."""
        stream = {"Content-Type": "text/event-stream"}
        proxy = raw_server(
            http_response(200, stream, events(f'<img src="{DRAWN}" fuse="true"/> Voilà.')),
            http_response(200, {"Content-Type": "image/png"}, PNG),
        )
        with GigaChat(base_url="http://giga.invalid/v1", access_token="t0k3n") as giga:
            (image,) = giga.complete("Draw", proxy=proxy.url).finish_reason.images
            assert image.bytes() == PNG
        assert proxy.requests[1].target == f"http://giga.invalid/v1/files/{DRAWN}/content"
        assert proxy.requests[1].header("accept") == "*/*"

    def test_wherever_it_is_cut(self) -> None:
        """The text and the images are the same wherever the pieces are cut."""
        text = f'1 < 2 <b> <img src="{DRAWN}" fuse="true"/> <imgs> <img src="x"> end <im'
        for size in (1, 2, 3, 7, 20, 200):
            pieces = [text[start : start + size] for start in range(0, len(text), size)]
            giga = with_sender(GigaChat, Sender(Canned(events(*pieces))), access_token="t0k3n")
            reading = read(giga.stream(QUESTION))
            assert reading.text == '1 < 2 <b>  <imgs> <img src="x"> end <im'
            assert [image.id for image in reading.finish.images] == [DRAWN]

    def test_what_may_become_a_tag(self) -> None:
        """Only the start of a tag waits for its end, and not for ever."""
        drawn = DrawnImages()
        tag = f"<IMG\n SRC='{DRAWN}' fuse='true' />"
        for piece, text in [
            ("a <", "a "),
            ("b", "<b"),
            (" <im", " "),
            ("age>", "<image>"),
            ("<img", ""),
            (" src=", ""),
            (">", "<img src=>"),
            (tag[:3], ""),
            (tag[3:5], ""),
            (tag[5:20], ""),
            (tag[20:] + "c", "c"),
            ("<img " + "x" * 154, ""),
            ("x", "<img " + "x" * 155),
            ("<i <im", "<i "),
        ]:
            assert drawn.feed(piece) == text
        assert (drawn.rest(), drawn.rest(), drawn.ids) == ("<im", "", [DRAWN])

    def test_nothing_but_an_image(self) -> None:
        """A reply that is one image is no empty reply."""
        tag = f'<img src="{DRAWN}" fuse="true"/>'
        giga = with_sender(GigaChat, Sender(Canned(events(tag))), access_token="t0k3n")
        reply = giga.complete(QUESTION)
        assert reply.text == ""
        assert [image.id for image in reply.finish_reason.images] == [DRAWN]

    def test_a_reply_that_knows_nothing_of_its_request(self) -> None:
        """A reply of one's own that does not tell what was asked is parsed like any other."""
        body = Canned(events(f'<img src="{DRAWN}" fuse="true"/>'))
        reply: Any = SimpleNamespace(events=body.events, content_type=body.content_type)
        giga = with_sender(GigaChat, Sender(Canned(PNG, "image/png")), access_token="t0k3n")
        *_, finish = giga.parse(reply)
        (image,) = finish.images  # type: ignore[attr-defined]
        assert image.bytes() == PNG

    def test_a_lost_image(self, raw_server: RawServerFactory) -> None:
        """An image that the service no longer has is an error of the call for its bytes alone."""
        stream = {"Content-Type": "text/event-stream"}
        gone = json.dumps({"status": 404, "message": "File not found"}).encode()
        server = raw_server(
            http_response(200, stream, events(f'<img src="{DRAWN}" fuse="true"/> Voilà.')),
            http_response(404, {"Content-Type": "application/json"}, gone),
        )
        with GigaChat(base_url=f"{server.url}/v1", access_token="t0k3n") as giga:
            (image,) = giga.complete("Draw").finish_reason.images
            with pytest.raises(LLMError, match="File not found"):
                image.bytes()
        assert server.requests[1].target == f"/v1/files/{DRAWN}/content"
