"""Files attached to GigaChat requests: which are allowed, and which were already uploaded."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote_to_bytes

from ... import _environment as _environ
from ..._runtime import files as _files
from ..._runtime.files import Unusable
from ..._runtime.scope import CancelScope
from ..._signals import let_through
from ...errors import InvalidRequestError, UnsupportedError, retold
from ._answers import MAX_FILE

_MB = 1_000_000

_IMAGE, _AUDIO, _TEXT = ("image", 15 * _MB), ("audio", 35 * _MB), ("text", MAX_FILE)
"""Kinds of files, and their largest size in bytes."""

_OFFICE = "application/vnd.openxmlformats-officedocument"

_TYPES: dict[str, tuple[str, tuple[str, int]]] = {
    **dict.fromkeys(("jpg", "jpeg"), ("image/jpeg", _IMAGE)),
    "png": ("image/png", _IMAGE),
    **dict.fromkeys(("tif", "tiff"), ("image/tiff", _IMAGE)),
    "bmp": ("image/bmp", _IMAGE),
    "txt": ("text/plain", _TEXT),
    "doc": ("application/msword", _TEXT),
    "docx": (f"{_OFFICE}.wordprocessingml.document", _TEXT),
    "pdf": ("application/pdf", _TEXT),
    "epub": ("application/epub+zip", _TEXT),
    "ppt": ("application/vnd.ms-powerpoint", _TEXT),
    "pptx": (f"{_OFFICE}.presentationml.presentation", _TEXT),
    "xlsx": (f"{_OFFICE}.spreadsheetml.sheet", _TEXT),
    "mp3": ("audio/mpeg", _AUDIO),
    **dict.fromkeys(("mp4", "m4a"), ("audio/mp4", _AUDIO)),
    "wav": ("audio/wav", _AUDIO),
    "ogg": ("audio/ogg", _AUDIO),
    "opus": ("audio/opus", _AUDIO),
}
"""Extension -> media type and kind."""

_DATA_URL = re.compile(r"data:(?P<type>[^,;]*)(?P<rest>(?:;[^,;]*)*),(?P<data>.*)", re.DOTALL)


@dataclass(frozen=True)
class Attachment:
    """A file to be uploaded.

    Attributes:
        name: its name, with the extension from which the service infers its type.
        path: where it is; None if its content is in memory.
        content: its content.
    """

    name: str
    path: Path | None = None
    content: bytes = b""

    @classmethod
    def of_path(cls, path: str | os.PathLike[str]) -> Attachment:
        """A file on this machine, which is opened but not read yet.

        Raises:
            InvalidRequestError: it cannot be read, or is too large.
            UnsupportedError: the service does not take files of its type.
        """
        place = Path(os.path.expanduser(path))
        found = cls(place.name, place)
        try:
            _files.check_path("attach", place)
            with _files.open_plain(place) as file:
                found._check(os.fstat(file.fileno()).st_size)
        except (OSError, ValueError) as error:
            let_through(error)
            if isinstance(error, InvalidRequestError):
                raise
            raise found._unreadable(error) from error
        return found

    @classmethod
    def of_url(cls, url: str) -> Attachment:
        """The content of a ``data:`` URL.

        Raises:
            InvalidRequestError: it is not such a URL, or too large.
            UnsupportedError: it is the address of a remote file, or the service does not accept its
                type.
        """
        if not url.startswith("data:"):
            raise UnsupportedError(
                "GigaChat takes no image by its address: pass the file with attach=, or a data: URL"
            )
        match = _DATA_URL.fullmatch(url)
        if match is None:
            raise InvalidRequestError("a data: URL has no comma before its data")
        media_type = match["type"].strip().lower()
        known = {kind: extension for extension, (kind, _) in reversed(_TYPES.items())}
        extension = known.get(media_type, media_type.rpartition("/")[2] or "txt")
        content = unquote_to_bytes(match["data"])
        if match["rest"].lower().endswith(";base64"):
            try:
                content = b64decode(content, validate=True)
            except Base64Error as error:
                let_through(error)
                raise InvalidRequestError(f"the data of a data: URL: {error}") from error
        found = cls(f"attachment.{extension}", None, content)
        found._check(len(content))
        return found

    @property
    def _extension(self) -> str:
        return self.name.rpartition(".")[2].lower()

    @property
    def media_type(self) -> str:
        """Its media type, such as ``"image/png"``."""
        return _TYPES[self._extension][0]

    @property
    def is_image(self) -> bool:
        """Whether it is an image."""
        return _TYPES[self._extension][1] is _IMAGE

    def read(self) -> bytes:
        """Its content.

        Raises:
            InvalidRequestError: it cannot be read.
        """
        if self.path is None:
            return self.content
        try:
            return _files.read(self.path, most=_TYPES[self._extension][1][1])
        except OSError as error:
            let_through(error)
            raise self._unreadable(error) from error

    def _check(self, size: int) -> None:
        known = _TYPES.get(self._extension)
        if known is None:
            raise UnsupportedError(
                f"GigaChat takes no file such as {self.name!r}; it takes {', '.join(_TYPES)}"
            )
        kind, most = known[1]
        if size > most:
            raise InvalidRequestError(
                f"{self.name!r} has {size} bytes; GigaChat takes {most // _MB} MB of {kind} at most"
            )
        if not size:
            raise InvalidRequestError(f"{self.name!r} is empty")

    def _unreadable(self, error: OSError | ValueError) -> InvalidRequestError:
        reason = getattr(error, "strerror", None) or str(error)
        return InvalidRequestError(f"the file {str(self.path)!r} cannot be read: {reason}")


_VERSION = 1

_MOST_REMEMBERED = 1000

_UPLOAD_PATIENCE_S = 120.0

_WRITE_PATIENCE_S = 2.0


class Uploads:
    """Remembers which files the service has, by account and content, for all processes.

    Args:
        account: the hash of the provider's credentials.
    """

    def __init__(self, account: str) -> None:
        self._account = account
        self._path = _environ.uploads_file()

    def id_of(
        self, attachment: Attachment, scope: CancelScope, upload: Callable[[bytes], str]
    ) -> str:
        """The service's id for a file; it is uploaded if the service does not have it yet.

        Args:
            attachment: the file.
            scope: how long it may take.
            upload: sends its content and returns the id.

        Raises:
            LLMError: as for any call.
            InvalidRequestError: the file cannot be read.
        """
        content = attachment.read()
        key = sha256(f"{self._account} {attachment.media_type} ".encode() + content).hexdigest()
        known = self._read().get(key)
        if known is not None:
            return known
        try:
            # A lock file for each content would stay forever.
            lock = _files.locks_folder(self._path) / f"{key[:2]}.upload"
            held = _files.wait_for_lock(lock, scope, _UPLOAD_PATIENCE_S)
        except Unusable as trouble:
            _files.tell_once(self._path, trouble)
            return upload(content)
        with held:
            known = self._read().get(key)
            if known is None:
                known = upload(content)
                self._change(lambda files: {**files, key: known}, scope)
            return known

    def forget(self, ids: Iterable[str], scope: CancelScope) -> bool:
        """Forget files that the service no longer has.

        Returns:
            Whether any of them was remembered.
        """
        gone = set(ids)
        if gone.isdisjoint(self._read().values()):
            return False
        return self._change(
            lambda files: {key: one for key, one in files.items() if one not in gone}, scope
        )

    def _read(self) -> Mapping[str, str]:
        try:
            return _remembered(_files.read_private(self._path))
        except (Unusable, ValueError) as trouble:
            let_through(trouble)
            _files.tell_once(self._path, trouble)
            return {}

    def _change(
        self, change: Callable[[Mapping[str, str]], dict[str, str]], scope: CancelScope
    ) -> bool:
        """Save the remembered files, and return whether that worked."""
        try:
            lock = _files.locks_folder(self._path) / "write"
            with _files.wait_for_lock(lock, scope, _WRITE_PATIENCE_S):
                kept = list(change(self._read()).items())[-_MOST_REMEMBERED:]
                content = json.dumps({"version": _VERSION, "files": dict(kept)}, indent=1)
                _files.replace_private(self._path, content.encode(), _remembered)
        except Unusable as trouble:
            _files.tell_once(self._path, trouble)
            return False
        return True


def _remembered(data: bytes) -> Mapping[str, str]:
    """Read the content of a file of uploads.

    Raises:
        ValueError: it is not one, or of another version.
    """
    if not data:
        return {}
    content = _files.json_object(data) or {}
    files = content.get("files")
    if not isinstance(files, dict) or content.get("version") != _VERSION:
        raise ValueError("it does not hold this version's uploads; delete it")
    return {key: one for key, one in files.items() if isinstance(one, str)}


@contextmanager
def about_file(name: str) -> Iterator[None]:
    """Say in errors that the service does not have a file, or that it is too large.

    Args:
        name: the file's id or name.
    """
    try:
        yield
    except InvalidRequestError as error:
        said = f"(HTTP {error.status_code}: {error.detail or 'without a word'})"
        if error.status_code == 404:
            gone = f"the service has no file {name!r}, or base_url is wrong {said}"
            raise retold(error, gone) from error
        if error.status_code == 413:
            raise retold(error, f"the file {name!r} is too large for the service {said}") from error
        raise


_DRAWN = re.compile(
    r"""<img\s{1,8}src=["'](?P<id>[0-9A-Za-z-]{8,64})["']\s{1,8}fuse=["']true["']\s{0,8}/?>""",
    re.IGNORECASE,
)

# The start of such a tag at the end of a text; a longer one is none.
_BEGUN = re.compile(r"<(i|im|img|img\s[^<>]{0,154})?\Z", re.IGNORECASE)


class DrawnImages:
    """Removes the tags of drawn images from a reply's text, even if pieces split them.

    Attributes:
        ids: the images so far.
        held: the end of the text so far, if it may be the start of a tag.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.held = ""

    def feed(self, piece: str) -> str:
        """The text of one more piece, except what may be part of a tag."""
        text, end = self.held + piece, 0
        for tag in _DRAWN.finditer(text):
            self.ids.append(tag["id"])
            end = tag.end()
        # What stands on both sides of a tag never makes another one.
        begun = _BEGUN.search(text, end)
        self.held = begun[0] if begun else ""
        return _DRAWN.sub("", text.removesuffix(self.held))

    def rest(self) -> str:
        """The text held back so far; called when the reply has ended."""
        rest, self.held = self.held, ""
        return rest
