"""A proxy from PyPI in a process of its own: ``python pypi_proxies.py KIND PORT FOLDER [LOGIN]``.

It listens on 127.0.0.1 and writes each target that a client asks for to its standard output or
error. ``KIND`` is ``http`` (proxy.py, which takes plain requests and CONNECT) or ``socks5``
(tiny-proxy); ``LOGIN`` is ``user:password``.
"""

from __future__ import annotations

import logging
import sys

import anyio
import proxy
from proxy.http.parser import HttpParser
from proxy.http.proxy import HttpProxyBasePlugin
from tiny_proxy import Socks5ProxyHandler


class OneRequest(HttpProxyBasePlugin):
    """Writes each target to standard output, and ends a connection after one plain request."""

    def handle_client_request(self, request: HttpParser) -> HttpParser:
        """Record a request once its login was right and its target took the connection."""
        target = f"{request.host.decode()}:{request.port}"
        if not request.is_https_tunnel:
            target = f"http://{target}{request.path.decode()}"
            # proxy.py would send a second request to the first one's host, with its own password.
            request.add_header(b"Connection", b"close")
        print("Target:", target, flush=True)  # noqa: T201 - to the log that the test reads
        return request


def serve_http(port: int, folder: str, login: str | None = None) -> None:
    """Serve HTTP and CONNECT until SIGTERM."""
    options = ["--hostname", "127.0.0.1", "--port", str(port), "--data-dir", folder]
    options += ["--num-acceptors", "1", "--num-workers", "1", "--local-executor", "1"]
    options += ["--basic-auth", login] if login else []
    with proxy.Proxy(options, plugins=[OneRequest]):
        proxy.sleep_loop()


async def serve_socks5(port: int, login: str | None = None) -> None:
    """Serve SOCKS5 until SIGTERM."""
    logging.basicConfig(level=logging.INFO)  # tells each target
    user, _, password = (login or "").partition(":")
    handler = Socks5ProxyHandler(user, password)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    await listener.serve(handler.handle)


if __name__ == "__main__":
    kind, port, folder, *login = sys.argv[1:]
    if kind == "http":
        serve_http(int(port), folder, *login)
    else:
        anyio.run(serve_socks5, int(port), *login)
