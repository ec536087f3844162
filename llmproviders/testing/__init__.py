"""Tools for testing code that calls language models, and for testing your own providers.

``ScriptedProvider`` replaces a provider, without any network. The rest is for authors of providers:

- ``check_provider`` checks that a class does what its attributes say,
- ``check_golden`` and ``check_cuts`` feed it recorded replies, in every framing and cut at every
  byte,
- ``read_stream`` reads a stream and fails if it breaks the rules that every stream follows,
- ``RawServer`` sends exactly the bytes that a test gives it.
"""

from __future__ import annotations

from ._contract import check_provider
from ._golden import Before, GoldenReply, check_cuts, check_golden, golden_replies
from ._http_bytes import (
    FRAMINGS,
    Body,
    chunked,
    close_delimited,
    content_length,
    gzip_stream,
    http_response,
)
from ._promise import Reading, read_stream
from ._raw_server import (
    Behaviour,
    ClientGone,
    Close,
    Handler,
    Pause,
    RawConnection,
    RawRequest,
    RawServer,
    Read,
    Reset,
    Script,
    Stall,
    Wait,
    keep_alive,
)
from ._scripted import ScriptedProvider

__all__ = [
    "FRAMINGS",
    "Before",
    "Behaviour",
    "Body",
    "ClientGone",
    "Close",
    "GoldenReply",
    "Handler",
    "Pause",
    "RawConnection",
    "RawRequest",
    "RawServer",
    "Read",
    "Reading",
    "Reset",
    "Script",
    "ScriptedProvider",
    "Stall",
    "Wait",
    "check_cuts",
    "check_golden",
    "check_provider",
    "chunked",
    "close_delimited",
    "content_length",
    "golden_replies",
    "gzip_stream",
    "http_response",
    "keep_alive",
    "read_stream",
]
