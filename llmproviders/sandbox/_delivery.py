"""Sends a reply: head, framing, compression, pace and transport faults."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from email.utils import formatdate

from llmproviders.sandbox._faults import Fault, garble
from llmproviders.sandbox._http import Connection, Incoming
from llmproviders.sandbox._record import RecordedRequest, RequestLog
from llmproviders.sandbox._reply import ReplyPiece, SandboxReply, Stream, Whole, phrase
from llmproviders.sandbox._settings import Settings

_GZIP_WBITS = 31

_WITHOUT_BODY = (204, 304)


@dataclass
class Delivery:
    """Sends one reply and records its progress."""

    connection: Connection
    request: Incoming
    record: RecordedRequest
    settings: Settings
    log: RequestLog
    fault: Fault | None

    def send(self, reply: SandboxReply) -> bool:
        """Send the reply and return whether the connection can take another request.

        Raises ConnectionOverError when the client leaves or the sandbox closes before the end.
        """
        try:
            return self._send(reply)
        finally:
            _release(reply)

    def _send(self, reply: SandboxReply) -> bool:
        fault = self.fault
        if fault is not None and fault.comes_first and (fault.reset or fault.stall):
            return self._break_off(fault)
        self.record.progress.status = reply.status
        if isinstance(reply, Whole):
            return self._send_whole(reply)
        return self._send_stream(reply)

    def _send_whole(self, reply: Whole) -> bool:
        fault = self.fault
        gzips = self._gzips()
        body = b"" if reply.status in _WITHOUT_BODY else reply.body
        body = garble(body) if fault is not None and fault.garbage else body
        body = _gzip(body) if gzips else body
        close = self.request.wants_close
        framing = {"Content-Length": str(len(body))}
        head = self._head(reply, framing, gzips=gzips, close=close)
        if self.settings.piece_delay_s and reply.pieces:
            self.connection.wait(self.settings.piece_delay_s * reply.pieces)
        if self.request.method == "HEAD":
            body = b""
        if fault is not None and fault.breaks_off:
            self._write_head(head)
            self._write(body[: len(body) // 2] if fault.cut_after else b"")
            return self._break_off(fault)
        _release(reply)
        if fault is not None and fault.drip_s:
            self._write_head(head)
            self._write(body)
        else:
            self.connection.send(head + body)
        return not close

    def _send_stream(self, reply: Stream) -> bool:
        fault = self.fault
        chunked = self.settings.chunked and self.request.version != "HTTP/1.0"
        close = self.request.wants_close or not chunked
        framing = {"Transfer-Encoding": "chunked"} if chunked else {}
        gzips = self._gzips()
        self._write_head(self._head(reply, framing, gzips=gzips, close=close))
        encode = _Encoder(gzips=gzips, chunked=chunked)
        garbles = fault is not None and fault.garbage
        for frame in reply.frames:
            if fault is not None and self.record.pieces == fault.after_pieces:
                if fault.breaks_off:
                    break
                if garbles and frame.is_text:
                    frame, garbles = ReplyPiece(garble(frame.data)), False
            self._write_frame(frame, encode.frame(frame.data))
        if fault is not None and fault.breaks_off:
            return self._break_off(fault)
        self.connection.wait(0)
        _release(reply)
        end = reply.end or (ReplyPiece(b""),)
        if garbles:
            end = tuple(ReplyPiece(garble(frame.data)) for frame in end)
        for frame in end[:-1]:
            self._write_frame(frame, encode.frame(frame.data))
        self._write_frame(end[-1], encode.frame(end[-1].data) + encode.finish())
        return not close

    def _break_off(self, fault: Fault) -> bool:
        if fault.stall:
            self.connection.wait(None)
        if fault.reset:
            self.connection.reset()
        return False

    def _write_frame(self, frame: ReplyPiece, data: bytes) -> None:
        if frame.is_text and self.settings.piece_delay_s:
            self.connection.wait(self.settings.piece_delay_s)
        self._write(data)
        if frame.is_text:
            self.log.piece(self.record)

    def _write_head(self, head: bytes) -> None:
        if self.fault is not None and self.fault.before_head:
            self._write(head)
        else:
            self.connection.send(head)

    def _write(self, data: bytes) -> None:
        if self.fault is None or self.fault.drip_s is None:
            self.connection.send(data)
            return
        for position in range(len(data)):
            self.connection.wait(self.fault.drip_s)
            self.connection.send(data[position : position + 1])

    def _gzips(self) -> bool:
        accepted = self.request.headers.get("accept-encoding", "")
        return self.settings.compress and "gzip" in accepted

    def _head(
        self, reply: SandboxReply, framing: dict[str, str], *, gzips: bool, close: bool
    ) -> bytes:
        headers = {
            "Server": "llmproviders-sandbox",
            "Date": formatdate(self.settings.clock(), usegmt=True),
            "Content-Type": reply.content_type,
            **dict(reply.headers),
            **({"Content-Encoding": "gzip"} if gzips else {}),
            **({"Connection": "close"} if close else {}),
            **framing,
        }
        if self.fault is not None and self.fault.headers:
            replaced = {name.lower() for name in self.fault.headers}
            headers = {name: headers[name] for name in headers if name.lower() not in replaced}
            headers.update(self.fault.headers)
        lines = [f"HTTP/1.1 {reply.status} {phrase(reply.status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def _release(reply: SandboxReply) -> None:
    if reply.release is not None:
        reply.release()


def _gzip(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=_GZIP_WBITS)
    return compressor.compress(data) + compressor.flush()


class _Encoder:
    """Encodes frames so that the client can read each one as soon as it arrives."""

    def __init__(self, *, gzips: bool, chunked: bool) -> None:
        self._compressor = zlib.compressobj(wbits=_GZIP_WBITS) if gzips else None
        self._chunked = chunked

    def frame(self, data: bytes) -> bytes:
        """Encode one frame, as one chunk if the reply is chunked."""
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return self._chunk(data)

    def finish(self) -> bytes:
        """Return the bytes that end the body."""
        rest = self._compressor.flush() if self._compressor is not None else b""
        return self._chunk(rest) + (b"0\r\n\r\n" if self._chunked else b"")

    def _chunk(self, data: bytes) -> bytes:
        if not self._chunked or not data:
            return data
        return b"%x\r\n%s\r\n" % (len(data), data)
