"""Decode the bytes of a reply into lines, events and JSON, without network or clock."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from itertools import chain
from typing import Any, TypeVar

from .._checks import is_finite
from .._signals import ignoring, let_through
from ..errors import LLMError, ProtocolError, ProviderTimeout, StreamInterrupted
from .types import MAX_LINE

MAX_VALUES = 2**17
"""Most values that one event may hold. An empty object takes 3 bytes on the wire and 72 in memory,
so that the length of a line alone bounds neither memory nor time.
"""


MOST_IDLE = 250_000
"""How many lines or events of one reply may bring no text."""


CODINGS = ("gzip", "x-gzip", "deflate")
"""The content codings that :func:`decompress` undoes."""


_BLOCK = 64 * 1024

AFTER_END_S = 1.0
"""How long to wait for data after the end of a reply, for example its finish reason."""


COMPRESSION = "compression"
"""The ``detail`` of an error about truncated compressed data."""


# Numbers too: WordPress answers with a bare 0 or -1. No line of a stream begins like this.
_OPENING = (*(b"{", b"[", b"<", b"-"), *(b"%d" % digit for digit in range(10)))

_CLOSING = (b"}", b"]")

_MOST_WORDS = 4096  # bytes

_MOST_PRETTY = 1000  # lines

_NAMES_OF_WORDS = (b'"error', b'"message"', b'"msg"', b'"detail"')

Kind = TypeVar("Kind")

_raw_decode = json.JSONDecoder().raw_decode

_BOM = b"\xef\xbb\xbf"

_UNITS = "utf-16-le"
"""The encoding in which two halves of a character that stand side by side are one."""


class Tail(bytes):
    """An unterminated last line or event of a reply; it may have been cut."""

    __slots__ = ()


class Document(bytes):
    """A body that is one JSON value or a web page instead of a stream of events."""

    __slots__ = ()


_PINGS = (b"ping", b"heartbeat", b"keepalive", b"keep-alive")
"""Names of events that are ignored, whatever their data."""

# After an object, JSON cannot continue on a new line like this; it is another object or the data of
# an event.
_NEXT_OBJECT = re.compile(rb"(?<=\})[ \t]*[\r\n]\s*(?=\{|data:)")


class ErrorEvent(bytes):
    """The data of an event named ``error``, or of a field ``error``."""

    __slots__ = ()


def split_blocks(blocks: Iterable[bytes], *, max_line: int = MAX_LINE) -> Iterator[list[bytes]]:
    r"""Yield the lines completed by each block as it arrives, each ending in LF.

    A line ends with LF, CR LF or CR; a CR LF split between blocks is one line end. An unterminated
    last line is yielded as a :class:`Tail`. No list is empty. The work is linear in the size of the
    input.

    Args:
        blocks: pieces of a reply's body, cut anywhere.
        max_line: bytes that one line may have, without its end.

    Raises:
        ProtocolError: a line is longer than ``max_line``.

    >>> list(split_blocks([b"one\r", b"\ntwo\n\nth", b"ree"]))
    [[b'one\n'], [b'two\n', b'\n'], [b'three\n']]
    """
    # Not a list of pieces: a line in pieces of two bytes would take twenty times its size.
    pending = BytesIO()
    pending_size = 0
    after_cr = False
    for block in blocks:
        if after_cr and block:
            after_cr = False
            block = block.removeprefix(b"\n")
        if b"\r" in block:
            after_cr = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # split looks at each byte in turn, which dominates the time for long lines.
        lines = BytesIO(block).readlines()
        if not lines:
            continue
        if pending_size + len(block) > max_line:
            _check(pending_size, lines, max_line)
        rest = b"" if block.endswith(b"\n") else lines.pop()
        if lines:
            if pending_size:
                pending.write(lines[0])
                lines[0] = pending.getvalue()
                pending = BytesIO()
                pending_size = 0
            yield lines
        if rest:
            pending.write(rest)
            pending_size += len(rest)
    if pending_size:
        pending.write(b"\n")
        yield [Tail(pending.getvalue())]


def _check(pending_size: int, lines: list[bytes], max_line: int) -> None:
    sizes = [len(line.removesuffix(b"\n")) for line in lines]
    sizes[0] += pending_size
    if max(sizes) > max_line:
        raise ProtocolError(
            f"a line of the reply is longer than {max_line} bytes; "
            "if that is right, raise Limits.line"
        )


def iter_lines(
    blocks: Iterable[bytes],
    *,
    max_line: int = MAX_LINE,
    texts: Callable[[], int] | None = None,
) -> Iterator[bytes]:
    r"""Yield each line of :func:`split_blocks`, without its end.

    Args:
        blocks: pieces of a reply's body, cut anywhere.
        max_line: bytes that one line may have, without its end.
        texts: returns how many pieces of text the lines have brought so far; with it, at most
            ``MOST_IDLE`` lines may bring none.

    Raises:
        ProtocolError: a line is too long, or too many bring no text.

    >>> list(iter_lines([b"one\r", b"\ntwo\n\nth", b"ree"]))
    [b'one', b'two', b'', b'three']
    """
    count, allowed = 0, MOST_IDLE
    for lines in split_blocks(blocks, max_line=max_line):
        count += len(lines)
        if count > allowed and texts is not None:
            allowed = MOST_IDLE + texts()
            if count > allowed:
                raise _idle("lines")
        for line in lines:
            yield line[:-1] if type(line) is bytes else Tail(line[:-1])


def iter_events(
    blocks: Iterable[bytes],
    *,
    max_line: int = MAX_LINE,
    texts: Callable[[], int] | None = None,
    hasten: Callable[[float], None] = lambda _: None,
    plain: bool = False,
) -> Iterator[bytes]:
    r"""Yield the data of each server-sent event; arguments and errors of :func:`iter_lines`.

    ``hasten`` is called with the number of seconds to wait for the rest once the reply is complete.

    If ``plain`` is true, and the body has a sentence in place of any event, that is yielded as an
    :class:`ErrorEvent`: proxies say so what is wrong, with status 200 too. A sentence beside events
    is yielded last, as a :class:`Tail`.

    ``max_line`` also limits an event. Comments and the fields ``id`` and ``retry`` are skipped. An
    event named ``error`` is yielded as an :class:`ErrorEvent`, and so is a field ``error``, which
    some servers send. An event cut off by the end of the body is yielded as a :class:`Tail`; the
    end mark decides whether the reply is complete. A body that is not a stream is yielded as one
    :class:`Document`. Source: the HTML standard, 9.2.6 "Interpreting an event stream".

    >>> list(iter_events([b": hi\ndata: a\nda", b"ta: b\n\ndata:c\n\n"]))
    [b'a\nb', b'c']
    >>> list(iter_events([b'{"choices"', b": []}"]))
    [b'{"choices": []}']
    """
    blocks = iter(blocks)
    head = _head(blocks, max_line)
    if head.lstrip().startswith(_OPENING):
        whole = read_document(chain((head,), blocks), max_line=max_line, hasten=hasten)
        yield from _objects(whole)
        return
    data: bytes | None = None
    more: BytesIO | None = None
    failed = is_ping = False
    words = b""
    pretty: list[bytes] = []
    events = others = 0
    allowed = MOST_IDLE
    for lines in split_blocks(chain((head,), blocks), max_line=max_line):
        for line in lines:
            if line == b"\n":
                if is_ping:
                    data = more = None
                    is_ping = False
                if data is not None or failed:
                    events += 1
                    yield (
                        data
                        if data is not None and more is None and not failed
                        else _event(data, more, failed)
                    )
                    data = more = None
                    failed = False
                    continue
                others += 1
                continue
            if line.startswith(b"data: "):
                value = line[6:-1]
            elif line.startswith(b"data:"):
                value = line[5:-1]
            elif line == b"data\n":
                value = b""
            else:
                others += 1
                if line.startswith(b"event:"):
                    name = line[6:].strip().lower()
                    failed = failed or name == b"error"
                    is_ping = name in _PINGS
                elif line.startswith(b"error:"):
                    if line[6:].strip():
                        if data is not None or failed:
                            yield _event(data, more, failed)
                            data = more = None
                            failed = False
                        yield ErrorEvent(line[6:].strip())
                elif _is_bare_error(line):
                    yield line.strip()
                elif pretty or (line == b"{\n" and not events):
                    pretty.append(line)
                    if line == b"}\n" or len(pretty) == _MOST_PRETTY:
                        yield b"".join(pretty)
                        pretty.clear()
                elif plain and len(words) < _MOST_WORDS and is_sentence(line):
                    words += line
                continue
            if data is None:
                data = value
                continue
            if more is None and data.endswith(b"}") and value.lstrip().startswith((b"{", b"[")):
                # Some servers leave out the blank line between events.
                yield _event(data, None, failed)
                data, failed = value, False
                continue
            if more is None:
                more = BytesIO()
                more.write(data)
            more.write(b"\n")
            more.write(value)
            if more.tell() > max_line:
                raise ProtocolError(
                    f"an event of the reply is longer than {max_line} bytes; "
                    "if that is right, raise Limits.line"
                )
        if (events > allowed or others > MOST_IDLE) and texts is not None:
            allowed = MOST_IDLE + texts()
            # An event may have a few lines that are not data.
            if events > allowed or others > MOST_IDLE + 4 * events:
                raise _idle("events")
    if (data is not None or failed) and not is_ping:
        event = _event(data, more, failed)
        yield event if failed else Tail(event)
    elif words and data is None:
        yield Tail(words.strip()) if events else ErrorEvent(words.strip())


def _objects(document: Document) -> Iterator[bytes]:
    """The events of a document that continues after its first JSON object."""
    if not document.startswith(b"{") or _NEXT_OBJECT.search(document) is None:
        yield document
        return
    *events, last = _NEXT_OBJECT.split(document)
    for event in events:
        yield event.removeprefix(b"data:").strip()
    yield Tail(last.removeprefix(b"data:").strip())


def _event(data: bytes | None, more: BytesIO | None, failed: bool) -> bytes:
    whole = (data or b"") if more is None else more.getvalue()
    return ErrorEvent(whole) if failed else whole


def _idle(what: str) -> ProtocolError:
    return ProtocolError(f"more than {MOST_IDLE} {what} of the reply brought no text")


def decompress(blocks: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """Undo one of ``CODINGS``, yielding data as soon as it arrives.

    Data after the end of the compressed data is ignored, except another gzip member.

    Args:
        blocks: pieces of the compressed body, cut anywhere.
        coding: its content coding.

    Raises:
        ProtocolError: the data does not match the coding.
        StreamInterrupted: the compressed data does not reach its end.

    >>> list(decompress([zlib.compress(b"one")], "deflate"))
    [b'one']
    """
    inflate = zlib.decompressobj(wbits=31)
    undecided = b"" if coding == "deflate" else None
    for block in blocks:
        if undecided is not None:
            # Many servers send deflate without the zlib header; two bytes show which it is.
            block = undecided + block
            if len(block) < 2:
                undecided = block
                continue
            undecided = None
            has_header = block[0] & 15 == 8 and int.from_bytes(block[:2], "big") % 31 == 0
            inflate = zlib.decompressobj(wbits=15 if has_header else -15)
        while True:
            if inflate.eof:
                block = block.lstrip(b"\0")
                if coding == "deflate" or not block.startswith(b"\x1f"):
                    break
                inflate = zlib.decompressobj(wbits=31)
            try:
                text = inflate.decompress(block, _BLOCK)
            except zlib.error as error:
                raise ProtocolError(f"the reply's compression is broken: {error}") from error
            if text:
                yield text
            if inflate.eof:
                block = inflate.unused_data
                continue
            block = inflate.unconsumed_tail
            if not block and len(text) < _BLOCK:
                break
    if not inflate.eof:
        raise StreamInterrupted("the reply was cut in its compressed data", detail=COMPRESSION)


def _is_bare_error(line: bytes) -> bool:
    """Whether a line inside a stream is a JSON error without a field name."""
    is_object = line.startswith(b"{") and line.rstrip().endswith(b"}")
    return is_object and any(name in line for name in _NAMES_OF_WORDS)


def is_sentence(line: bytes) -> bool:
    """Whether a line is words, perhaps in quotes, and no field of an event."""
    if line[:1] in b"{[<:":
        return False
    with ignoring(UnicodeDecodeError):
        text = line.decode().rstrip().removeprefix('"').replace("\t", " ").replace("\xa0", " ")
        name = text.partition(":")[0].rstrip()
        words = " " in name or not name.isascii() or name.lower().endswith("error")
        return name[:1].isalnum() and words and text.isprintable()
    return False


def _head(blocks: Iterator[bytes], max_line: int) -> bytes:
    """The start of a body, long enough to recognize its format; without blank lines."""
    head = b""
    for block in blocks:
        head = (head + block).lstrip(b"\r\n").removeprefix(_BOM).lstrip(b"\r\n")
        if head.strip() and not (len(head) < len(_BOM) and _BOM.startswith(head)):
            return head
        if len(head) > max_line:
            raise ProtocolError(f"the reply begins with more than {max_line} blanks")
    return head


def read_document(
    blocks: Iterable[bytes], *, max_line: int, hasten: Callable[[float], None]
) -> Document:
    """Read a body that is no stream; a JSON value in it is whole however the connection ends.

    Arguments and errors as for :func:`iter_events`.
    """
    whole, looked_at, closed = BytesIO(), 0, False
    try:
        for block in blocks:
            whole.write(block)
            size = whole.tell()
            if size > max_line:
                raise ProtocolError(
                    f"the reply is not a stream, and larger than {max_line} bytes; "
                    "if that is right, raise Limits.line"
                )
            # Checked each time its size has doubled, so that the work stays linear.
            if not closed and size >= 2 * looked_at and block.rstrip().endswith(_CLOSING):
                looked_at = size
                if closed := _is_json(whole.getvalue()):
                    hasten(AFTER_END_S)
    except (StreamInterrupted, ProviderTimeout) as error:
        # A complete JSON value is accepted however its connection ends; truncated compressed data
        # is not, since its checksum is missing.
        if error.detail == COMPRESSION or not (closed or _is_json(whole.getvalue())):
            raise
    return Document(whole.getvalue())


def _is_json(data: bytes) -> bool:
    try:
        decode_json(data, max_values=MAX_VALUES)
    except LLMError as error:
        let_through(error)
        return False
    return True


def decode_json(data: bytes, *, max_values: int | None = None) -> Any:
    """The JSON value that ``data`` holds.

    Args:
        data: JSON in UTF-8.
        max_values: the most values that it may hold, nested ones included; None: any number.

    Raises:
        ProtocolError: it is not JSON in UTF-8, or holds too many values.
        StreamInterrupted: the reply was cut in the middle of the JSON.
    """
    if max_values is not None and len(data) > max_values:
        _check_values(data, max_values)
    try:
        text = data.decode().strip()
        value, end = _raw_decode(text)
        if end != len(text):
            raise ValueError("more follows the value")
    except (ValueError, RecursionError) as error:
        let_through(error)
        if data.startswith(_BOM):
            return decode_json(type(data)(data[len(_BOM) :]))
        if isinstance(data, Tail):
            raise StreamInterrupted("the reply was cut in the middle of a line") from error
        raise ProtocolError(
            f"the reply holds {len(data)} bytes that are not JSON ({_fault(error)}): "
            f"{type(error).__name__}"
        ) from error
    return value


def _fault(error: ValueError | RecursionError) -> str:
    """Why data is not JSON, in words that repeat none of it."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} does not belong to text in UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at position {error.pos}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


_STRUCTURE = (b"{", b"[", b",")


def _check_values(data: bytes, most: int) -> None:
    """Count values by the characters before them, skipping strings; linear, little memory."""
    if sum(map(data.count, _STRUCTURE)) <= most:
        return
    plain = data.replace(rb"\\", b"").replace(rb"\"", b"")
    values = start = 0
    for _ in range(2 * most):  # a key and a value for each
        quote = plain.find(b'"', start)
        end = len(plain) if quote < 0 else quote
        values += sum(plain.count(mark, start, end) for mark in _STRUCTURE)
        if values > most:
            break
        start = plain.find(b'"', quote + 1) + 1
        if quote < 0 or start == 0:
            return
    raise ProtocolError(f"an event of the reply holds more than {most} values")


def decode_object(data: bytes) -> dict[str, Any]:
    """The JSON object that ``data`` holds; any other value is a :class:`ProtocolError`."""
    value = decode_json(data, max_values=MAX_VALUES)
    if type(value) is not dict:
        raise ProtocolError(f"the reply holds a {type(value).__name__} where an object was due")
    return value


def expect(value: Any, kind: type[Kind], field: str, *, optional: bool = False) -> Kind:
    """Return a value from a service's JSON after checking that it is a ``kind``.

    Args:
        value: what the service sent.
        kind: the type that the protocol requires.
        field: the name for the error.
        optional: whether null, or nothing at all, counts as an empty ``kind``.

    Raises:
        ProtocolError: it has another type; true and false do not count as ``int``.

    >>> expect([1], list, "data"), expect(None, list, "data", optional=True)
    ([1], [])
    """
    if type(value) is kind:
        return value
    if value is None and optional:
        return kind()
    raise ProtocolError(f"the reply has {type(value).__name__} where {field} was due")


def expect_number(value: Any, field: str) -> float:
    """The same for a number, which must be finite.

    >>> expect_number(1, "value")
    1.0
    """
    if not is_finite(value):
        raise ProtocolError(f"the reply has {type(value).__name__} where {field} was due")
    return float(value)


def whole_characters(pieces: Iterable[str]) -> Iterator[str]:
    r"""Yield ``pieces`` so that each can be encoded.

    JSON can contain half a character, a lone surrogate, and services that split text by UTF-16
    units send some. A first half waits for the next piece; a half that stays alone becomes U+FFFD.
    An item that is not exactly a ``str`` ends the text.

    >>> list(whole_characters(["a\ud83d", "\ude00b", "c"]))
    ['a', '😀b', 'c']
    """
    half = ""
    for piece in pieces:
        if type(piece) is not str:
            if half:
                yield "\ufffd"
                half = ""
        elif half or not is_encodable(piece):
            piece, half = _mended(half + piece)
        yield piece


def encodable(text: str) -> tuple[str, str]:
    """The encodable part of ``text``, and the half character at its end, if any."""
    return (text, "") if is_encodable(text) else _mended(text)


def is_encodable(text: str) -> bool:
    """Whether a text has no half characters (lone surrogates), which UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mended(text: str) -> tuple[str, str]:
    half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    units = text[: len(text) - len(half)].encode(_UNITS, "surrogatepass")
    return units.decode(_UNITS, "replace"), half


def settled(text: str) -> int:
    """How much of ``text`` is final: it may end in half a character that more text completes."""
    end = len(text)
    while end and (text[end - 1] == "\ufffd" or "\ud800" <= text[end - 1] <= "\udbff"):
        end -= 1
    return end


def is_settled(text: str) -> bool:
    """Whether all of ``text`` is final and can be encoded."""
    return settled(text) == len(text) and is_encodable(text)


_CANDIDATES = 24

_TRIES_WITHOUT_SUCCESS = 4

_LONGEST = 1024 * 1024


class EventTemplate:
    """The bytes around the text of an event, which are often the same in the next event.

    Most of the cost of a stream is parsing the same JSON again. The position of the text is not
    guessed: it ends at the quote where an inserted letter appears at the end of the text and
    nowhere else. If the surrounding bytes are the same, a valid JSON string between them is the
    text; any other event is parsed in full.

    Args:
        grows: whether an event repeats the text of the one before it; then only the new part is
            returned.
    """

    def __init__(self, *, grows: bool = False) -> None:
        self._grows = grows
        self._around: tuple[bytes, bytes] | None = None
        self._tries = _TRIES_WITHOUT_SUCCESS

    def text_in(self, data: bytes) -> str | None:
        """The text of ``data``, or its new part if the text grows; None: parse it in full."""
        if self._around is None:
            return None
        before, after = self._around
        start, end = len(before), len(data) - len(after)
        if start <= end and data.startswith(before) and data.endswith(after):
            text = _string_in(data[start:end])
            if text is not None and (not self._grows or is_settled(text)):
                self._tries = _TRIES_WITHOUT_SUCCESS
                if self._grows:
                    self._around = data[:end], after
                return text
        self._around = None
        return None

    def learn(self, data: bytes, text: str, reads: Callable[[bytes, str], bool]) -> None:
        """Find the text in an event that was parsed in full.

        It gives up once the last few templates did not match the events after them.

        Args:
            data: the event.
            text: its text, which is not empty.
            reads: whether an event, parsed in full, is this one with the given text.
        """
        if self._tries == 0 or len(data) > _LONGEST:
            return
        self._tries -= 1
        end, ends = len(data), _ends(text)
        for _ in range(_CANDIDATES):
            end = data.rfind(b'"', 0, end)
            if end < 0:
                return
            if data.endswith(ends, 0, end) and _holds(reads, data, end, text):
                start = end if self._grows else _start(data, end)
                self._around = data[:start], data[end:]
                return


def _ends(text: str) -> tuple[bytes, bytes]:
    """How the end of a text is written in JSON; rules out most candidates early."""
    end = text[-8:]
    return end.encode(errors="surrogatepass"), json.dumps(end)[1:-1].encode()


def _holds(reads: Callable[[bytes, str], bool], data: bytes, end: int, text: str) -> bool:
    try:
        return reads(data[:end] + b"x" + data[end:], text + "x")
    except ProtocolError:
        return False


def _start(data: bytes, end: int) -> int:
    """Where the string that ends at ``end`` starts; quotes inside it are escaped."""
    start = data.rfind(b'"', 0, end)
    while data[start - 1] == ord("\\"):
        start = data.rfind(b'"', 0, start)
    return start + 1


def _string_in(raw: bytes) -> str | None:
    """The text that ``raw`` stands for in a JSON string; None if it is not valid there."""
    try:
        text = raw.decode()
        if not text.isprintable() or '"' in text or "\\" in text:
            text = decode_json(b'"%b"' % raw)
    except (UnicodeDecodeError, ProtocolError):
        return None
    return text
