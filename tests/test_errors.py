"""The tree of errors: what each is, carries and conceals."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import re
from itertools import count
from typing import Any

import pytest

from llmproviders import _redact, errors
from llmproviders._redact import MASK, conceal, conceal_user_info, redact, redact_data, scrub
from llmproviders.errors import (
    AllProvidersFailed,
    AuthenticationError,
    BlockedError,
    ConnectionFailed,
    DeadlineExceeded,
    EmptyReplyError,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    ProtocolError,
    ProviderTimeout,
    QuotaExceededError,
    RateLimitError,
    RefusedError,
    RejectedReplyError,
    SchemaError,
    ServerError,
    StreamInterrupted,
    UnsupportedError,
)
from llmproviders.results import Attempt

CONTRACT: dict[type[LLMError], tuple[bool, set[type[BaseException]]]] = {
    LLMError: (False, {Exception}),
    MissingAuthError: (False, {LLMError}),
    AuthenticationError: (False, {LLMError}),
    QuotaExceededError: (False, {LLMError}),
    RateLimitError: (True, {LLMError}),
    InvalidRequestError: (False, {LLMError, ValueError}),
    ModelNotFoundError: (False, {InvalidRequestError}),
    UnsupportedError: (False, {InvalidRequestError}),
    ServerError: (True, {LLMError}),
    BlockedError: (False, {LLMError}),
    ConnectionFailed: (True, {LLMError, ConnectionError}),
    ProviderTimeout: (True, {LLMError, TimeoutError}),
    StreamInterrupted: (True, {LLMError}),
    ProtocolError: (True, {LLMError, RuntimeError}),
    EmptyReplyError: (True, {LLMError}),
    RefusedError: (False, {EmptyReplyError}),
    RejectedReplyError: (False, {LLMError}),
    SchemaError: (False, {RejectedReplyError}),
    DeadlineExceeded: (False, {ProviderTimeout}),
    AllProvidersFailed: (False, {LLMError}),
}
"""Class -> (retryable, its bases)."""

CLASSES = pytest.mark.parametrize("cls", CONTRACT, ids=lambda cls: cls.__name__)
KEY = "sk-do-not-print-me-0123456789"


def every_attribute(cls: type[LLMError]) -> LLMError:
    """An error that carries something in every attribute, its own attempt among them."""
    error = cls(
        "what happened",
        provider="GigaChat",
        status_code=503,
        retry_after=1.5,
        request_id="r-1",
        retryable=not cls.retryable_by_default,
        partial_text="so far",
        detail="why",
    )
    error.attempts = (Attempt("GigaChat", "m", 1.0, None, 0.5, error=error, waited=0.1, chunks=2),)
    return error


class TestTree:
    def test_the_table_is_complete(self) -> None:
        """Every error of the module has a row in the table, and every row an error."""
        found = {c for _, c in inspect.getmembers(errors, inspect.isclass)}
        assert {c for c in found if issubclass(c, LLMError)} == CONTRACT.keys()

    @CLASSES
    def test_row(self, cls: type[LLMError]) -> None:
        """Each is retryable or not, and derives from what the contract says, unless told else."""
        retryable, bases = CONTRACT[cls]
        assert cls("x").retryable is retryable
        assert cls("x", retryable=not retryable).retryable is not retryable
        assert set(cls.__bases__) == bases
        assert issubclass(cls, LLMError)

    @CLASSES
    def test_it_is_in_the_drawing(self, cls: type[LLMError]) -> None:
        """The module's docstring draws each under its parent."""
        own, parent = self._place(cls), self._place(cls.__bases__[0])
        assert (own > parent) if parent else cls is LLMError

    @CLASSES
    def test_the_drawing_says_what_else_it_is(self, cls: type[LLMError]) -> None:
        """The drawing marks what is retryable, and names the built-in class that it also is."""
        entry = re.search(rf"\b{cls.__name__}\b.*?(?=── |\Z)", errors.__doc__ or "", re.DOTALL)
        assert entry is not None
        retryable, bases = CONTRACT[cls]
        assert ("retryable" in entry[0]) is retryable
        others = {base.__name__ for base in bases if not issubclass(base, LLMError)}
        assert set(re.findall(r"also an? (\w+)", entry[0])) == others - {"Exception"}

    @staticmethod
    def _place(drawn: type[BaseException]) -> tuple[int, int] | None:
        """How far to the right a class is drawn, and how far down."""
        found = re.search(rf"^([ │├└─]*)(?={drawn.__name__}\b)", errors.__doc__ or "", re.M)
        return (len(found[0]), found.start()) if found else None


class TestAttributes:
    @CLASSES
    def test_defaults(self, cls: type[LLMError]) -> None:
        """The message comes first; whatever nobody gave is empty."""
        error = cls("what happened")
        assert str(error) == error.message == "what happened"
        assert (error.provider, error.status_code, error.retry_after) == (None, None, None)
        assert (error.request_id, error.partial_text, error.attempts) == (None, "", ())
        assert error.detail is None
        assert str(cls()) == ""

    @CLASSES
    def test_nothing_but_the_message_by_position(self, cls: type[LLMError]) -> None:
        """A provider given by position is a mistake that shows."""
        with pytest.raises(TypeError):
            cls("what happened", "GigaChat")  # type: ignore[misc]

    @CLASSES
    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle(self, cls: type[LLMError], protocol: int) -> None:
        """A pickle brings back the class, the message and every attribute."""
        self._same(pickle.loads(pickle.dumps(every_attribute(cls), protocol)), cls)

    @CLASSES
    def test_copies(self, cls: type[LLMError]) -> None:
        """So does a deep copy, and a shallow one shares what the error holds."""
        error = every_attribute(cls)
        self._same(copy.deepcopy(error), cls)
        shallow = copy.copy(error)
        assert type(shallow) is cls
        assert shallow.__dict__ == error.__dict__
        assert str(shallow) == str(error)

    @staticmethod
    def _same(again: Any, cls: type[LLMError]) -> None:
        assert type(again) is cls
        assert str(again) == "what happened"
        before = every_attribute(cls).__dict__
        rest = {k: v for k, v in again.__dict__.items() if k != "attempts"}
        assert rest == {k: v for k, v in before.items() if k != "attempts"}
        (attempt,) = again.attempts
        assert attempt.error is again
        assert (attempt.provider, attempt.waited, attempt.chunks) == ("GigaChat", 0.1, 2)


class TestSecrets:
    @pytest.fixture(autouse=True)
    def forget(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is concealed here is not looked for in every other test's errors."""
        monkeypatch.setattr(_redact, "_concealed", _redact._concealed.copy())

    def test_one_that_comes_to_be_known_meanwhile(self) -> None:
        """A finalizer that runs as a message is looked through may make a secret known."""
        number = count()

        def learn(*_: object) -> None:
            conceal(f"learnt-meanwhile-{next(number)}")

        threshold = gc.get_threshold()
        gc.callbacks.append(learn)
        gc.set_threshold(1)
        try:
            assert all(redact(f"key {KEY}") for _ in range(20))
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(learn)
        assert next(number) > 0

    @pytest.mark.parametrize(
        "text",
        [
            f"key {KEY}",
            f"http://x/?key={KEY}",
            f"{KEY}{KEY}",
            f"Invalid header value b'Bearer {KEY}'",
            "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.abc",
            "authorization: basic dXNlcjpwYXNzd29yZA==",
            "Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==",
            "socks5h://me:hunter22@127.0.0.1:1080",
            "http://me:hun%20ter22@proxy:3128/path",
            "cannot reach https://me:hu@nter22@proxy:3128",
            "https://tok-hunter22@host/",
            "a http://me:hunter22@one and http://you:hunter22@two",
        ],
    )
    def test_no_message_holds_one(self, text: str) -> None:
        """A key that is known, and whatever looks like a credential, is masked in a message."""
        conceal(KEY)
        error = LLMError(text, detail=text)
        for said in (str(error), repr(error), str(error.detail)):
            assert MASK in said
            for secret in (KEY, "hunter22", "ter22", "eyJ", "dXNl"):
                assert secret not in said

    @pytest.mark.parametrize(
        "text",
        [
            "Authorization: Bearer null",
            "http://127.0.0.1:8123/v1",
            "mail me at someone@example.org",
            "see https://example.org/@user and https://example.org/a?b=c@d",
            "a bearer of bad news",
            "a basic error",
            "Missing bearer or basic authentication in header",
            "I can only give basic information on bearer instruments.",
            "print('basic training')",
            "basic JavaScript, basic step-by-step work, basic authentication/authorization",
            "WWW-Authenticate: Basic realm=\"x\", Authorization: Basic realm='y'",
            "Authorization: Basic credentials.",
            "Authorization: Basic authentication is required",
        ],
    )
    def test_plain_words_stay(self, text: str) -> None:
        """What is no credential is left as it is."""
        assert redact(text) == text

    @pytest.mark.parametrize(
        "text",
        [
            "Authorization: Bearer {}letmein",
            "{{'authorization': 'Basic {}letmein'}}",
            "authorization=bearer {}letmein",
            "the header: Bearer {}letmein",
            "b'Bearer {}letmein'",
            "Authorization: Bearer {}credentials.letmein",
            "Authorization: Basic {}required1",
            "wrong: Bearer {}abc123",
            "wrong: Bearer {}12345678",
            "wrong: bearer {}sk-letmein",
            "wrong: Basic {}YTpiYzpk",
            "wrong: Basic {}aGVsbG8=",
            "wrong: Bearer {}aBcDeFgHiJ",
            "wrong: Bearer {}abcdefghijklmnopqrstuvwxyz",
            "wrong: BEARER   {}abcdefghijkl.mnopqrstuv.wxyz",
        ],
    )
    def test_what_looks_like_a_credential(self, text: str) -> None:
        """It is masked after the name of a header, by its shape, or by its length."""
        plain, shown = text.format(""), redact(text.format(""))
        secret = text.partition("{}")[2].rstrip("'}")
        assert secret not in shown
        assert shown == plain.replace(secret, MASK)

    def test_what_a_model_says_is_shown(self) -> None:
        """Text, summaries of thoughts and the inputs of calls come as the model wrote them."""
        said = "Authorization: Bearer abc123"
        fields = ("content", "text", "thinking", "summary", "arguments", "input")
        data = [dict.fromkeys(fields, said), {"id": said}]
        assert redact_data(data) == [data[0], {"id": f"Authorization: Bearer {MASK}"}]

    def test_a_secret_is_masked_however_it_is_written(self) -> None:
        """A secret is known in its percent-encoded form, and in the plain one, as well."""
        conceal("pass/wo rd+1")
        conceal_user_info("http://me:s%2Fecret%40word@127.0.0.1:1")
        for text in ("pass/wo rd+1", "pass%2Fwo%20rd%2B1", "s%2Fecret%40word", "s/ecret@word"):
            assert redact(f"a {text} b") == f"a {MASK} b"

    def test_short_ones_are_left(self) -> None:
        """Masking a secret of a letter or two would eat ordinary words."""
        conceal("a")
        conceal("")
        conceal(None)
        assert redact("banana") == "banana"

    def test_the_memory_is_bounded(self) -> None:
        """Tokens renewed for weeks push out the oldest, but for the key that fetches them."""
        conceal("the-oldest-of-all")
        for number in range(5000):
            conceal(KEY)
            conceal(f"token-{number:06}")
        assert redact(KEY) == MASK
        assert redact("token-004999 token-000000") == f"{MASK} token-000000"
        assert redact("the-oldest-of-all") == "the-oldest-of-all"

    def test_the_whole_chain_is_scrubbed(self) -> None:
        """Causes, contexts, wrapped errors and reasons are masked too: a traceback prints them."""
        conceal(KEY)
        inner = ValueError(f"inner {KEY}")
        wrapped = RuntimeError(f"wrapped {KEY}", inner)
        system = OSError(5, f"system {KEY}")
        inner.__context__ = system
        reason = RuntimeError(f"reason {KEY}")
        outer = LLMError("outer")
        outer.__cause__ = wrapped
        wrapped.__context__ = outer
        wrapped.reason = reason  # type: ignore[attr-defined]
        scrub(outer)
        for link in (inner, wrapped, reason, system):
            assert KEY not in str(link)
            assert KEY not in repr(link)

    def test_no_pickle_holds_one(self) -> None:
        """What is pickled is the masked message."""
        conceal(KEY)
        error = LLMError(f"it was {KEY}", detail=f"{KEY}?")
        error.__cause__ = ValueError(KEY)
        assert KEY.encode() not in pickle.dumps(error)
