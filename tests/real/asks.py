"""Asks several servers at once, in a process whose sockets something has replaced.

Arguments: what replaces them and when (``gevent-first``, with a caller's session
``gevent-first+session``), the authority's file, then address
after address, the first two of servers that answer. Prints a line of JSON: how each call ended, how
late the latest was, how often another thread had its turn meanwhile, and the warnings.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
import warnings
from typing import Any

DEADLINE_S = 1.5
PATIENCE_S = 30


class Own(__import__("socket").socket):  # type: ignore[misc]
    """What someone may put in the place of Python's sockets."""


def replace(what: str) -> None:
    """Let ``what`` replace Python's sockets, or nothing."""
    with warnings.catch_warnings():
        # Both tell of being late, and eventlet of its age.
        warnings.simplefilter("ignore")
        library = importlib.import_module("gevent.monkey" if what == "gevent" else what)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if what == "gevent":
            library.patch_all()
        elif what == "eventlet":
            library.monkey_patch()
        elif what == "truststore":
            library.inject_into_ssl()
        elif what == "socket":
            library.socket = Own


def main() -> None:
    """Do what the arguments say."""
    told, bundle, *urls = sys.argv[1:]
    told, _, of_session = told.partition("+")
    what, _, moment = told.partition("-")
    if moment == "first":
        replace(what)
    if moment == "requests":
        importlib.import_module("requests")
        replace(what)
    from llmproviders import FailoverClient, LLMError, OpenAICompatible

    how: dict[str, Any] = {"ca_bundle": bundle, "trust": "system" if told == "system" else None}
    if of_session:
        how = {"session": importlib.import_module("requests").Session()}
        how["session"].verify = bundle
    clients = [
        FailoverClient([OpenAICompatible(base_url=f"{url}/v1", api_key="k", **how)]) for url in urls
    ]
    if moment == "made":
        replace(what)
    if moment == "called":
        for client in clients[:2]:
            client.complete("hi")
        replace(what)
    ended: list[str] = [""] * len(urls)
    late = [0.0] * len(urls)
    turns = 0

    def ask(number: int) -> None:
        deadline = DEADLINE_S if number > 1 else PATIENCE_S
        began = time.monotonic()
        try:
            ended[number] = clients[number].complete("hi", deadline=deadline).text
        except LLMError as error:
            ended[number] = type(error).__name__
        late[number] = time.monotonic() - began - deadline

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(urls))]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            turns += 1
            time.sleep(0.05)
        # A connection that was kept serves again.
        again = [client.complete("hi", deadline=PATIENCE_S).text for client in clients[:2]]
    said = [str(warning.message) for warning in caught]
    found = {"ended": ended, "late": max(late), "again": again, "turns": turns, "said": said}
    sys.stdout.write(json.dumps(found))


main()
