"""Keep secrets out of messages, reprs, logs and tracebacks.

There are two mechanisms: secrets registered with :func:`conceal` (keys, tokens, proxy passwords)
    are masked wherever they appear, even if a service echoes them; and anything that looks like a
    credential (user-info in a URL, the value of an authorization header) is masked even if it was
    not registered.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from itertools import count
from traceback import clear_frames
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ._printable import printable
from ._signals import from_handler, let_through

if TYPE_CHECKING:
    from logging import LogRecord


MASK = "***"

_SHORTEST = 6

_MOST_REMEMBERED = 4096

_AT_A_TIME = 512


_USER_INFO = re.compile(r"(?<=://)[^\s/?#@'\"]*(?:@[^\s/?#@'\"]+)*(?=@)")

# Both are ordinary words, too. After the name of a header anything is a credential; elsewhere it
# looks like one: with a digit, padding or mixed case, or longer than words are.
_AUTHORIZATION = re.compile(
    r"((?i:authorization)\W{1,8}|(?i:header|value|token|key|got)\W{0,3}[:=]\W{0,4}|\bb['\"])?"
    r"\b((?i:Bearer|Basic)\s+)"
    r"(?!(?i:null\b|(?:realm=?|scheme|authentication|authorization|credentials?|required)\.?"
    r"(?![A-Za-z0-9._~+/=-])))"
    r"(?(1)|(?=sk-|[A-Za-z._~+/=-]{0,200}[0-9]|[A-Za-z._~+/-]{4,200}=(?![A-Za-z])"
    r"|(?:[A-Za-z._~+/-]{0,200}[a-z][A-Z]){2}|[A-Za-z._~+]{22}"
    r"|(?=(?:[A-Za-z+/]{4}){2,50}(?![\w+/]))[A-Za-z+/]{0,200}[a-z][A-Z]))"
    r"[A-Za-z0-9._~+/=-]{6,}"
)


_TELLING_NAME = re.compile(
    "auth|cookie|key|token|secret|passw|passphrase|pwd|(?<![a-z])pass(?![a-z])|credential|signature"
    "|bearer|jwt",
    re.IGNORECASE,
)

# Stricter, since the fields of a body have any names: max_tokens, key_points.
_TELLING_FIELD = re.compile(
    "(?<!cache_)(auth|authorization|cookie|key|token|secret|passw(or)?d|passphrase|pwd|credential|signature"
    "|bearer|jwt)s?$",
    re.IGNORECASE,
)


class Secret(str):
    """A key, token or password: a ``str`` that is not shown.

    Its ``repr``, ``str()`` and any formatting are ``***``. Anything derived from it by other means
    (``+``, ``encode()``, a slice) is plain and must be wrapped again.

    >>> key = Secret("sk-key")
    >>> key, f"Bearer {key}", "Bearer " + key
    (***, 'Bearer ***', 'Bearer sk-key')
    """

    __slots__ = ()

    @property
    def value(self) -> str:
        """The plain text, for code that calls ``str()`` on its arguments."""
        return str.__str__(self)

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)


class Redacted(str):
    """A string that may contain a credential, such as a URL; only its ``repr`` is redacted.

    >>> Redacted("http://me:hunter22@localhost/v1")
    'http://***@localhost/v1'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redact(self))


def hidden(value: Any) -> Any:
    """``value``, as a ``Secret`` if it is a string.

    A function that takes a secret replaces its argument with this, since error reporters print the
    local variables of every function in a traceback.
    """
    return Secret(value) if type(value) is str else value


@lru_cache(maxsize=256)
def is_telling(name: str) -> bool:
    """Whether a header of this name is likely to contain a credential, judged by its words."""
    return _TELLING_NAME.search(name) is not None


# Each with the number of its last use. There is no lock, since a finalizer may run in the middle,
# but every step is atomic: other threads add to it all the time.
_concealed: dict[str, int] = {}

_mentions = count()


def conceal(secret: str | None) -> None:
    """Mask ``secret`` in every text passed to :func:`redact` from now on.

    Secrets of fewer than six characters are ignored, since masking them would hit ordinary words.
    The last 4,096 are remembered, so that weeks of renewed tokens do not fill the memory.
    """
    if not secret:
        return
    for form in _forms(secret):
        _concealed[form] = next(_mentions)
    if len(_concealed) > _MOST_REMEMBERED + _AT_A_TIME:
        _forget_the_oldest()


# Not a secret, although it may precede one in a header or in pasted text.
_SCHEME = re.compile(r"authorization:?|basic|bearer|export|set", re.IGNORECASE)


def conceal_words(text: str) -> None:
    """Mask a string that contains a secret, and each word of it: parts of a key are secret too."""
    conceal(text)
    for word in text.split():
        if not _SCHEME.fullmatch(word):
            conceal(word)


def _forget_the_oldest() -> None:
    known = _concealed.copy()
    for form in sorted(known, key=known.__getitem__)[:-_MOST_REMEMBERED]:
        if _concealed.get(form) == known[form]:
            _concealed.pop(form, None)


@lru_cache(maxsize=64)
def _forms(secret: str) -> frozenset[str]:
    """How it may be written: unchanged, and encoded in a URL's query or path."""
    plain = {secret, unquote(secret)}
    quoted = {quote(form, safe=safe, errors="replace") for form in plain for safe in ("", "/")}
    return frozenset(form for form in plain | quoted if len(form) >= _SHORTEST)


def conceal_user_info(url: str | None) -> None:
    """Mask the password in ``url``, and its encoded form in a header."""
    if not url or "@" not in url:
        return
    try:
        parts = urlsplit(url)
        user, password = parts.username or "", parts.password
    except ValueError as error:
        let_through(error)
        return
    if password:
        conceal(password)
        conceal(
            b64encode(f"{unquote(user)}:{unquote(password)}".encode("utf-8", "replace")).decode()
        )


# Names of query parameters, in addition to header names, whose values give access.
_TELLING_IN_QUERY = ("code", "sig")


def is_telling_in_query(name: str) -> bool:
    """Whether a query parameter of this name is likely to contain a credential."""
    return is_telling(name) or name.lower() in _TELLING_IN_QUERY


def conceal_query(url: str) -> None:
    """Mask the values in the query of ``url`` that are likely to be credentials."""
    if "?" not in url:
        return
    query = url[:].partition("?")[2].partition("#")[0]
    for name, value in parse_qsl(query):
        if is_telling_in_query(name):
            conceal(value)


def conceal_fields(body: Any) -> None:
    """Mask the strings in the fields of JSON data that are likely to be credentials."""
    seen: set[int] = set()
    waiting: list[tuple[bool, Any]] = [(False, body)]
    while waiting:
        telling, value = waiting.pop()
        if isinstance(value, str):
            if telling:
                conceal_words(value)
        elif id(value) not in seen and isinstance(value, (Mapping, list, tuple)):
            seen.add(id(value))
            if isinstance(value, Mapping):
                waiting += (
                    (_TELLING_FIELD.search(str(n)) is not None, v) for n, v in value.items()
                )
            else:
                waiting += ((telling, item) for item in value)


def redact(text: str) -> str:
    """Return ``text`` with every known or recognizable credential replaced by ``***``.

    >>> redact("cannot reach socks5://me:hunter22@127.0.0.1:1080")
    'cannot reach socks5://***@127.0.0.1:1080'
    """
    text = text[:]  # a plain text, also of a Secret
    found = [secret for secret in _concealed.copy() if secret in text]
    for secret in sorted(found, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _USER_INFO.sub(MASK, text)
    return _AUTHORIZATION.sub(rf"\1\2{MASK}", text)


# What a model says is shown as it is.
_SAID = frozenset(
    (
        *("content", "text", "reasoning", "reasoning_content", "thinking", "summary"),
        *("arguments", "input"),
    )
)


def redact_data(value: Any) -> Any:
    """Redact the strings in JSON data, except those that a model said: text, thoughts, arguments.

    >>> redact_data(
    ...     {"id": "http://me:hunter22@localhost", "text": "http://me:hunter22@localhost"}
    ... )
    {'id': 'http://***@localhost', 'text': 'http://me:hunter22@localhost'}
    """
    whole = [value]
    # A list of what is left to do, since data may be nested deeper than functions can call.
    waiting: list[Any] = [whole]
    while waiting:
        part = waiting.pop()
        for key, inner in list(part.items() if isinstance(part, dict) else enumerate(part)):
            if isinstance(inner, str) and key not in _SAID:
                part[key] = redact(inner)
            elif isinstance(inner, (dict, list)) and key != "arguments":
                part[key] = inner.copy()
                waiting.append(part[key])
    return whole[0]


def redact_record(record: LogRecord) -> bool:
    """A logging filter for other libraries: redacts a record and lets it pass."""
    record.msg, record.args = redact(record.getMessage()), None
    return True


def scrub(error: BaseException) -> None:
    """Redact the messages of ``error`` and its causes, and make them printable.

    A traceback prints the whole chain, and the underlying libraries put URLs into their messages;
    pickling an error with its causes includes their attributes.
    """
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain += [link.__cause__, link.__context__]
        chain += [arg for arg in link.args if isinstance(arg, BaseException)]
        reason = getattr(link, "reason", None)
        if isinstance(reason, BaseException):
            chain.append(reason)
        if any(isinstance(arg, str) for arg in link.args):
            link.args = tuple(_shown(arg) if isinstance(arg, str) else arg for arg in link.args)
        # An OSError and PySocks' errors keep their messages not only in args.
        for name in ("strerror", "msg"):
            said = getattr(link, name, None)
            if isinstance(said, str):
                setattr(link, name, _shown(said))
        for name, value in vars(link).items():
            if isinstance(value, str):
                setattr(link, name, redact(value))
        # requests attaches the whole request, with key and prompt, to its errors.
        for name in ("request", "response"):
            if name in vars(link):
                setattr(link, name, None)


def forget_locals(error: BaseException) -> None:
    """Clear the local variables in the tracebacks of ``error`` and its causes.

    Those of the underlying libraries contain keys, prompts and proxy passwords, and error reporters
    print them. The lines of the traceback stay. Functions that are still running are not changed,
    nor is what the caller was already handling.

    Args:
        error: the error that was just caught.
    """
    seen = {id(handled_outside(error))}
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        # from_handler needs the locals of a handler's frames.
        if link is None or id(link) in seen or from_handler(link):
            continue
        seen.add(id(link))
        chain += [link.__cause__, link.__context__]
        chain += [arg for arg in link.args if isinstance(arg, BaseException)]
        traceback: TracebackType | None = link.__traceback__
        if traceback is not None:
            clear_frames(traceback)


def handled_outside(error: BaseException) -> BaseException | None:
    """What the callers of the function that just caught ``error`` are handling, or None.

    A generator must not ask ``sys.exc_info`` for it when it starts: a variable that holds an
    exception of the caller's would keep the generator from being closed when it is dropped.
    """
    running: set[FrameType] = set()
    frame = error.__traceback__.tb_frame.f_back if error.__traceback__ else None
    while frame is not None:
        running.add(frame)
        frame = frame.f_back
    seen: set[int] = set()
    chain: list[BaseException | None] = [error.__context__, error.__cause__]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        # The first frame of its traceback is that of the function that caught it.
        if link.__traceback__ is not None and link.__traceback__.tb_frame in running:
            return link
        chain += [link.__cause__, link.__context__]
    return None


def _shown(text: str) -> str:
    return printable(redact(text))
