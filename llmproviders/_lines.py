"""From the bytes of a reply to lines, to events, to JSON: no network, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

from .errors import ProtocolError, StreamInterrupted

MAX_LINE = 16 * 1024 * 1024

_raw_decode = json.JSONDecoder().raw_decode
_BOM = b"\xef\xbb\xbf"


class Tail(bytes):
    """The last line or event of a reply, where nothing ended it: it may have been cut."""

    __slots__ = ()


def split_blocks(blocks: Iterable[bytes], *, max_line: int = MAX_LINE) -> Iterator[list[bytes]]:
    r"""Yield the lines that each block ends, as soon as it has arrived, with LF for their end.

    A line ends with LF, CR LF or CR; a CR LF cut in two between blocks is one end. What comes
    after the last line end is given one and yielded as a :class:`Tail`. No list is empty. The
    work is linear in the size of the input.

    Args:
        blocks: pieces of a reply's body, cut anywhere.
        max_line: bytes that one line may have, without its end.

    Raises:
        ProtocolError: a line is longer than ``max_line``.

    >>> list(split_blocks([b"one\r", b"\ntwo\n\nth", b"ree"]))
    [[b'one\n'], [b'two\n', b'\n'], [b'three\n']]
    """
    pending: list[bytes] = []
    pending_size = 0
    after_cr = False
    for block in blocks:
        if after_cr and block:
            after_cr = False
            block = block.removeprefix(b"\n")
        if b"\r" in block:
            after_cr = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # split looks at each byte in turn, which for long lines takes longer than all the rest.
        lines = BytesIO(block).readlines()
        if not lines:
            continue
        if pending_size + len(block) > max_line:
            _check(pending_size, lines, max_line)
        rest = b"" if block.endswith(b"\n") else lines.pop()
        if lines:
            if pending_size:
                lines[0] = b"".join([*pending, lines[0]])
                pending.clear()
                pending_size = 0
            yield lines
        if rest:
            pending.append(rest)
            pending_size += len(rest)
    if pending_size:
        yield [Tail(b"".join([*pending, b"\n"]))]


def _check(pending_size: int, lines: list[bytes], max_line: int) -> None:
    sizes = [len(line.removesuffix(b"\n")) for line in lines]
    sizes[0] += pending_size
    if max(sizes) > max_line:
        raise ProtocolError(
            f"a line of the reply is longer than {max_line} bytes; "
            "if that is right, raise Limits.line"
        )


def iter_lines(blocks: Iterable[bytes], *, max_line: int = MAX_LINE) -> Iterator[bytes]:
    r"""Yield each line of :func:`split_blocks`, without its end.

    >>> list(iter_lines([b"one\r", b"\ntwo\n\nth", b"ree"]))
    [b'one', b'two', b'', b'three']
    """
    for lines in split_blocks(blocks, max_line=max_line):
        for line in lines:
            yield line[:-1] if type(line) is bytes else Tail(line[:-1])


def iter_events(blocks: Iterable[bytes], *, max_line: int = MAX_LINE) -> Iterator[bytes]:
    r"""Yield the data of each server-sent event; arguments and errors of :func:`split_blocks`.

    Comments and the fields ``event``, ``id`` and ``retry`` mean nothing to these services and are
    passed over. An event that the end of the body cuts off is yielded too, as a :class:`Tail`:
    whether the reply is whole is for its end mark to say.
    Source: the HTML standard, 9.2.6 "Interpreting an event stream".

    >>> list(iter_events([b": hi\ndata: a\nda", b"ta: b\n\ndata:c\n\n"]))
    [b'a\nb', b'c']
    """
    data: list[bytes] = []
    first = True
    for lines in split_blocks(blocks, max_line=max_line):
        if first:
            first = False
            lines[0] = lines[0].removeprefix(_BOM)
        for line in lines:
            if line == b"\n":
                if data:
                    yield data[0] if len(data) == 1 else b"\n".join(data)
                    data.clear()
            elif line.startswith(b"data: "):
                data.append(line[6:-1])
            elif line.startswith(b"data:"):
                data.append(line[5:-1])
            elif line == b"data\n":
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
