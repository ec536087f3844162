"""One client with one kind of fault, in its own process; prints how each call ended.

``python -m benchmarks.failover.sample CLIENT MAKE HOW MODE CALLS LIMIT WARM FIRST SECOND``
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

ALARM_S = 1.0


def main() -> None:
    """Warm up, make the calls, and print a line of JSON for each."""
    module, make, how, mode, calls, limit_s, *origins = sys.argv[1:]
    if mode == "gevent":
        from gevent import monkey

        monkey.patch_all()
    logging.disable(logging.CRITICAL)
    client_of = getattr(importlib.import_module(f"benchmarks.failover.clients.{module}"), make)
    warm, first, second = origins
    signal.signal(signal.SIGALRM, _give_up)
    # Imports during the first call have nothing to do with the fault.
    signal.setitimer(signal.ITIMER_REAL, 60)
    _ask(client_of(warm, warm), how)
    client = client_of(first, second)
    if make == "make_with_tokens":
        _ask(client, how)
    if mode == "alarm":
        threading.Thread(target=_give_up_after, args=(float(limit_s),), daemon=True).start()
        signal.signal(signal.SIGALRM, _ring)
        signal.setitimer(signal.ITIMER_REAL, ALARM_S)
    else:
        signal.setitimer(signal.ITIMER_REAL, float(limit_s))
    if mode == "gevent":
        from gevent.pool import Pool

        for told in Pool().imap_unordered(lambda _: _ask(client, how), range(int(calls))):
            print(json.dumps(told), flush=True)
        os._exit(0)
    for _ in range(int(calls)):
        print(json.dumps(_ask(client, how)), flush=True)
    os._exit(0)


class Alarm(TimeoutError):  # noqa: N818 - as a caller may call it
    """What the caller's handler raises; libraries raise and catch its base themselves."""


def _ring(*_: object) -> None:
    raise Alarm("the caller wants no more of it")


def _give_up_after(limit_s: float) -> None:
    time.sleep(limit_s)
    _give_up()


def _ask(client: Any, how: str) -> dict[str, Any]:
    pieces: list[str] = []
    error = None
    start = time.monotonic()
    try:
        if how == "stream":
            pieces.extend(client.stream())
        else:
            pieces.append(str(getattr(client, how)() or ""))
    except Exception as failure:  # noqa: BLE001 - any exception is a result
        error = f"{type(failure).__name__}: {failure}"[:500]
    return {"text": "".join(pieces), "error": error, "seconds": time.monotonic() - start}


def _give_up(*_: object) -> None:
    print(json.dumps({"hangs": True}), flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
