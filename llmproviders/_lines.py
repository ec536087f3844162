"""From the bytes of a reply to lines, to events, to JSON: no network, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

from .errors import ProtocolError, StreamInterrupted

MAX_LINE = 16 * 1024 * 1024

_SHORT_BLOCK = 2048

_raw_decode = json.JSONDecoder().raw_decode
_BOM = b"\xef\xbb\xbf"


class Tail(bytes):
    """The last line or event of a reply, where nothing ended it: it may have been cut."""

    __slots__ = ()


def iter_lines(blocks: Iterable[bytes], *, max_line: int = MAX_LINE) -> Iterator[bytes]:
    r"""Yield each line, without its end, as soon as the block that ends it has arrived.

    A line ends with LF, CR LF or CR; a CR LF cut in two between blocks is one end. Blank lines
    are yielded, for they mean something in server-sent events. What comes after the last line
    end is yielded as a :class:`Tail`. The work is linear in the size of the input.

    Args:
        blocks: pieces of a reply's body, cut anywhere.
        max_line: bytes that one line may have.

    Raises:
        ProtocolError: a line is longer than ``max_line``.

    >>> list(iter_lines([b"one\r", b"\ntwo\n\nth", b"ree"]))
    [b'one', b'two', b'', b'three']
    """
    pending: list[bytes] = []
    pending_size = 0
    after_cr = False
    for block in blocks:
        if after_cr and block:
            after_cr = False
            block = block.removeprefix(b"\n")
        if not block:
            continue
        if b"\r" in block:
            after_cr = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = _split(block)
        rest = lines.pop()
        if not lines:
            pending.append(rest)
            pending_size += len(rest)
            _check(pending_size, max_line)
            continue
        if pending:
            pending.append(lines[0])
            lines[0] = b"".join(pending)
            pending.clear()
        if len(block) + pending_size > max_line:
            _check(max(map(len, [*lines, rest])), max_line)
        yield from lines
        pending_size = len(rest)
        if rest:
            pending.append(rest)
    if pending:
        yield Tail(b"".join(pending))


def _split(block: bytes) -> list[bytes]:
    """The lines that end in ``block``, and what comes after the last line end."""
    if len(block) < _SHORT_BLOCK:
        return block.split(b"\n")
    # split looks at each byte in turn, which for long lines takes longer than all the rest.
    lines = [line.removesuffix(b"\n") for line in BytesIO(block)]
    if block.endswith(b"\n"):
        lines.append(b"")
    return lines


def _check(size: int, max_line: int) -> None:
    if size > max_line:
        raise ProtocolError(
            f"a line of the reply is longer than {max_line} bytes; "
            "if that is right, raise Limits.line"
        )


def iter_events(lines: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yield the data of each server-sent event.

    Comments and the fields ``event``, ``id`` and ``retry`` mean nothing to these services and are
    passed over. An event that the end of the body cuts off is yielded too, as a :class:`Tail`:
    whether the reply is whole is for its end mark to say.
    Source: the HTML standard, 9.2.6 "Interpreting an event stream".

    >>> list(iter_events([b": hi", b"data: a", b"data: b", b"", b"data:c", b""]))
    [b'a\nb', b'c']
    """
    data: list[bytes] = []
    first = True
    for line in lines:
        if first:
            first = False
            line = line.removeprefix(_BOM)
        if not line:
            if data:
                yield data[0] if len(data) == 1 else b"\n".join(data)
                data = []
        elif line.startswith(b"data: "):
            data.append(line[6:])
        elif line.startswith(b"data:"):
            data.append(line[5:])
        elif line == b"data":
            data.append(b"")
    if data:
        yield Tail(b"\n".join(data))


def decode_json(data: bytes) -> Any:
    """The JSON value that ``data`` holds.

    Raises:
        ProtocolError: it is not JSON in UTF-8.
        StreamInterrupted: it is not, because the reply was cut in the middle of it.
    """
    try:
        text = data.decode().strip()
        value, end = _raw_decode(text)
        if end != len(text):
            raise ValueError("more follows the value")
    except (ValueError, RecursionError) as error:
        if isinstance(data, Tail):
            raise StreamInterrupted("the reply was cut in the middle of a line") from error
        raise ProtocolError(
            f"the reply holds {len(data)} bytes that are not JSON: {type(error).__name__}"
        ) from error
    return value


def decode_object(data: bytes) -> dict[str, Any]:
    """The JSON object that ``data`` holds; any other value is a :class:`ProtocolError`."""
    value = decode_json(data)
    if type(value) is not dict:
        raise ProtocolError(f"the reply holds a {type(value).__name__} where an object was due")
    return value
