"""Send with a caller's session; all its settings apply, as in ``session.post``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth
from requests.structures import CaseInsensitiveDict
from requests.utils import default_headers
from urllib3 import HTTPHeaderDict
from urllib3.response import BaseHTTPResponse, HTTPResponse

from .. import _environment as _environ
from .. import errors
from .._redact import conceal_query, conceal_user_info
from .._runtime import files as _files
from .._runtime.process import current
from .._signals import let_through
from .certificates import bundle
from .connections import hold_back, leave_session_to_parent, track
from .types import Trust, conceal_header, plain_headers


class SessionSender:
    """Prepares and sends requests with a session.

    Args:
        session: the caller's.
        trust: certificates to trust in addition to the session's.

    Raises:
        InvalidRequestError: ``trust`` asks for something that a session cannot do.
    """

    def __init__(self, session: requests.Session, trust: Trust) -> None:
        if trust.system:
            raise errors.InvalidRequestError(
                'trust="system" cannot be combined with session=: mount an adapter with such a '
                "context on the session, or leave out session="
            )
        self._session = session
        self._process = current()
        self._trust = trust

    @property
    def reads_environment(self) -> bool:
        """Whether the session takes proxies and certificates from the environment."""
        return bool(self._session.trust_env)

    def proxies_for(self, proxies: Mapping[str, str]) -> dict[str, str]:
        """The proxies that are used: the given ones, or if there are none, the session's."""
        return dict(proxies or self._session.proxies)

    def prepare(
        self,
        method: str,
        url: str,
        body: bytes | None,
        own: Mapping[str, str],
        given: Mapping[str, str],
    ) -> requests.PreparedRequest:
        """Prepare a request, with the session's headers, cookies, parameters and login.

        Args:
            method: the HTTP method.
            url: the address.
            body: what to send, or None.
            own: the provider's headers; the session's headers override them.
            given: headers that override those of the session.
        """
        if self._process is not current():
            leave_session_to_parent(self._session)
            self._process = current()
        session, usual = self._session, default_headers()
        headers = CaseInsensitiveDict(
            {
                name: value
                for name, value in own.items()
                if session.headers.get(name) in (None, usual.get(name))
            }
        )
        headers.update(given)
        cookies = headers.pop("Cookie", None)
        prepared = session.prepare_request(
            requests.Request(
                method,
                url,
                headers=plain_headers(headers),
                data=body,
                auth=self._login(headers, "Authorization" in CaseInsensitiveDict(own)),
            )
        )
        if cookies:
            prepared.headers["Cookie"] = _joined(cookies[:], prepared.headers.get("Cookie"))
        prepared.register_hook("response", _hide_redirect)  # type: ignore[no-untyped-call]
        for name, value in prepared.headers.items():
            conceal_header(name, value)
        conceal_query(str(prepared.url))
        return prepared

    def _login(self, headers: Mapping[str, str], has_key: bool) -> Any:
        """What sets the ``Authorization`` header.

        None means the session's own ``auth``. A key and the caller's headers for a request override
        it; anything else that ``auth`` does, such as signing the request, still applies.
        ``~/.netrc`` is never used.
        """
        auth: Any = self._session.auth
        if auth and not has_key and "Authorization" not in headers:
            return None
        value: Any = headers.get("Authorization", self._session.headers.get("Authorization"))
        given = {} if value is None else plain_headers({"Authorization": value})
        # Digest would answer a refused key with its own login.
        signs = callable(auth) and not isinstance(auth, HTTPDigestAuth)

        def put(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers.update(given)
            if signs:
                request = auth(request)
                request.headers.update(given)
            return request

        return put

    def send(
        self,
        request: requests.PreparedRequest,
        *,
        proxies: Mapping[str, str],
        **arguments: Any,
    ) -> requests.Response:
        """Send a request; the body of the response has not been read yet.

        Args:
            request: what :meth:`prepare` returned.
            proxies: proxies that override those of the session, as requests takes them.
            **arguments: other arguments of ``Session.send``.
        """
        session = self._session
        verify = arguments["verify"] = self._verify()
        cert = arguments["cert"] = self._trust.cert or session.cert
        used = arguments["proxies"] = self.proxies_for(proxies)
        for proxy in used.values():
            conceal_user_info(proxy)
        adapter = session.get_adapter(str(request.url))
        is_tls = str(request.url).startswith("https:")
        if is_tls:
            _check_files(verify, cert)
        if isinstance(adapter, HTTPAdapter):
            pool = adapter.get_connection_with_tls_context(request, verify, used, cert)
            track(pool, self._extra() if is_tls and verify else None)
        try:
            response = session.send(request, allow_redirects=False, **arguments)
        except requests.HTTPError as error:
            let_through(error)
            # A hook raised for a status; the reply itself is mapped to an error later.
            if error.response is None:
                raise
            response = error.response
        return _readable(response)

    def _verify(self) -> bool | str:
        """What certificates are checked against.

        The session's setting overrides ``REQUESTS_CA_BUNDLE``; in requests it is the other way
        round.
        """
        session = self._session
        if not self._trust.verify:
            return False
        if session.verify is not True or not session.trust_env:
            return True if session.verify is None else session.verify
        return _environ.lookup("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") or True

    def _extra(self) -> str | None:
        trust = self._trust
        own = bundle(trust.ca_bundle, trust.bundle_named) if trust.ca_bundle else ""
        return own + (self._trust.extra or "") or None


def _joined(own: str, jar: str | None) -> str:
    """The provider's cookies, plus the session's cookies with other names."""
    names = {pair.partition("=")[0].strip() for pair in own.split(";")}
    pairs = [pair.strip() for pair in (jar or "").split(";")]
    return "; ".join([own, *(p for p in pairs if p and p.partition("=")[0] not in names)])


def _hide_redirect(response: requests.Response, **_: Any) -> None:
    """Hide a redirect from requests, which parses its target even without following it."""
    response.headers = CaseInsensitiveDict(response.headers)
    response.headers.pop("location", None)


def _readable(response: requests.Response) -> requests.Response:
    """The response with a readable body, even if a hook has read it or an adapter has none."""
    raw = response.raw
    if not isinstance(raw, BaseHTTPResponse) or raw.closed:
        headers = getattr(raw, "headers", response.headers)
        # What requests has read is already decoded.
        framing = ("content-encoding", "transfer-encoding", "content-length")
        response.raw = HTTPResponse(
            BytesIO(response.content),
            HTTPHeaderDict((n, v) for n, v in headers.items() if n.lower() not in framing),
            response.status_code,
            preload_content=False,
        )
    response.release = hold_back(response.raw)  # type: ignore[attr-defined]
    return response


def _check_files(verify: bool | str | None, cert: Any) -> None:
    """Refuse a session's files that are not regular ones: OpenSSL would block on a pipe.

    Raises:
        ConnectionFailed: one of them is not regular; not retryable.
    """
    named = (cert,) if isinstance(cert, str) else cert or ()
    for path in (*named, verify):
        if not isinstance(path, bool) and path is not None and not os.path.isdir(path):
            try:
                _files.open_plain(path).close()
            except OSError as error:
                raise errors.ConnectionFailed(
                    f"the session's certificate file {path!r} cannot be read: {error.strerror}; "
                    "check its verify and cert",
                    retryable=False,
                ) from error
