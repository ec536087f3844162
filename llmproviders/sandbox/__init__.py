"""The protocols of all services on loopback, for tests, demos and learning.

>>> from llmproviders.sandbox import Sandbox
>>> with Sandbox() as sandbox:
...     sandbox.fail("gigachat", status=503, times=2)
...     sandbox.url.startswith("http://127.0.0.1:")
True
"""

from __future__ import annotations

from llmproviders.sandbox._faults import Fault, parse_fault
from llmproviders.sandbox._record import Headers, RecordedRequest
from llmproviders.sandbox._sandbox import Sandbox

__all__ = ["Fault", "Headers", "RecordedRequest", "Sandbox", "parse_fault"]
