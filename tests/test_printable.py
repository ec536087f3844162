"""What a foreign text may do to a terminal: nothing."""

from __future__ import annotations

import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproviders import (
    AllProvidersFailed,
    Attempt,
    FailoverClient,
    LLMError,
    OpenAICompatible,
    ServerError,
    StreamInterrupted,
)
from llmproviders._printable import one_line, printable
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.terminals import ACTING, HOSTILE


def acting(text: str) -> list[str]:
    """Return what a terminal would obey, line ends and tabs apart."""
    return ACTING.findall(text.replace("\r\n", "\n"))


@given(st.lists(st.text(), max_size=20), st.lists(st.sampled_from(HOSTILE), max_size=40))
def test_nothing_acts_however_it_is_cut(pieces: list[str], hostile: list[str]) -> None:
    """Each piece is made harmless by itself, and so is the whole."""
    assert acting("".join(printable(piece) for piece in [*pieces, *hostile])) == []


@pytest.mark.parametrize("cut", range(len(HOSTILE)))
def test_a_sequence_in_two_pieces(cut: int) -> None:
    """A sequence that is cut in two is as harmless as a whole one."""
    assert acting(printable(HOSTILE[:cut]) + printable(HOSTILE[cut:])) == []


@pytest.mark.parametrize(
    "text",
    [
        "plain\ttext\nof two lines\r\n",
        "Всё по-русски, 中文, עברית, العربية",
        "👨\u200d👩\u200d👧 and ❤\ufe0f",
        "می\u200cخواهم",
        "\u200fשלום\u200e",
        "soft\u00adhyphen, no\u00a0break",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Letters of every script, their joiners and marks, emoji, tabs and line ends stay."""
    assert printable(text) == text


def test_what_would_act_is_seen() -> None:
    """An escape sequence is shown as text, so that nothing of a reply is lost."""
    assert printable("\x1b[31mred\r") == r"\x1b[31mred\r"
    assert one_line("a\n\tb\x85c\u2028d") == "a b c d"


def test_errors_say_nothing_that_acts() -> None:
    """A message is one line without control characters; a list of failures has a line for each."""
    error = ServerError(f"the service said {HOSTILE}\nllmproviders: forged", detail=HOSTILE)
    assert acting(str(error)) == acting(str(error.detail)) == []
    assert "\n" not in str(error)
    several = AllProvidersFailed(f"every provider failed:\n  {HOSTILE}")
    assert acting(str(several)) == []
    assert str(several).count("\n") == 1


@pytest.mark.parametrize(
    "answer",
    [
        http_response(
            503,
            {"Content-Type": "application/json"},
            b'{"error":{"message":"\\u001b[2J\\nforged"}}',
        ),
        http_response(400, {"Content-Type": "text/plain"}, HOSTILE.encode()),
        [b"HTTP/1.1 \x1b]0;title\x07 no\r\n\r\n"],
        [b"\x1b]0;title\x07\xc2\x9b31m\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: \x1b[2J\r\n\r\nx"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[2J\r\n"],
        http_response(200, {"Content-Type": "application/json"}, b"{\x1b[2J"),
    ],
)
def test_tracebacks(raw_server: RawServerFactory, answer: list[bytes]) -> None:
    """Neither an error's traceback nor those of its causes have what a terminal obeys."""
    server = raw_server(answer)
    provider = OpenAICompatible(
        base_url=f"http://127.0.0.1:{server.port}/v1", api_key="k", model="m"
    )
    with provider, pytest.raises(LLMError) as caught:
        provider.complete("Why?")
    assert acting("".join(traceback.format_exception(caught.value))) == []


def test_reports_and_timelines() -> None:
    """Names in a client's report and in the timeline of its attempts are one harmless line each."""
    provider = ScriptedProvider(["Yes."], name=f"{HOSTILE}\nforged")
    with FailoverClient([(provider, HOSTILE)]) as client:
        attempts = client.complete("Why?").attempts
        shown = [str(client.report()), attempts.to_text(), repr(attempts)]
    assert [acting(text) for text in shown] == [[], [], []]
    assert not re.search(r"^forged", "\n".join(shown), re.MULTILINE)
    broken = Attempt("one", None, 0.0, None, 0.5, StreamInterrupted(HOSTILE))
    assert acting(repr(broken)) == []
