"""Replies as services really send them: each case says what has to come out of it."""

from __future__ import annotations

import time

import pytest
import tenacity

from llmproviders import FailoverClient, FinishReason, LLMError, OpenAICompatible
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, canned
from tests.support.cases import Case, load, provider_for
from tests.support.promise import read
from tests.support.rawserver import keep_alive

CASES = [*load("openai-compatible.jsonl"), *load("more.jsonl")]
CHATS = [case for case in CASES if case.call != "models"]
MODELS = [case for case in CASES if case.call == "models"]
FAILING = [case for case in CHATS if "error" in case.expect]


@pytest.mark.parametrize("case", CHATS, ids=str)
def test_a_reply(raw_server: RawServerFactory, case: Case) -> None:
    """Over a real connection, a reply gives what its case says, in the time that it says."""
    server = raw_server(case.script())
    with provider_for(server.url) as provider:
        began = time.monotonic()
        reading = case.read(provider)
        took = time.monotonic() - began
    case.agrees_with(reading)
    assert took < case.expect.get("within", 10.0) + 3.0


@pytest.mark.parametrize("case", FAILING, ids=str)
def test_the_next_provider_answers(raw_server: RawServerFactory, case: Case) -> None:
    """Where a reply fails, the next provider's text comes, after as many tries as the class has."""
    server = raw_server(keep_alive(case.script()))
    with provider_for(server.url) as provider:
        client = FailoverClient(
            [provider, ScriptedProvider(["All is well."])], wait=tenacity.wait_none()
        )
        completion = client.complete("Hi")
    assert str(completion) == "All is well."
    case.agrees_with_error(completion.attempts[0].error)
    tried = [a.error for a in completion.attempts if a.error is not None]
    assert len(server.requests) == len(tried) <= 3
    assert len(server.requests) <= case.expect.get("requests", 3 if tried[0].retryable else 1)


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_a_listing(raw_server: RawServerFactory, case: Case) -> None:
    """A listing of models gives the names that it has, or says what is wrong."""
    server = raw_server(keep_alive(case.script()))
    with provider_for(server.url) as provider:
        if "error" not in case.expect:
            assert provider.list_models() == case.expect["models"]
            return
        with pytest.raises(LLMError) as caught:
            provider.list_models()
    case.agrees_with_error(caught.value)


@pytest.mark.parametrize("case", [case for case in CHATS if case.status == 200], ids=str)
def test_a_reply_cut_at_every_byte(case: Case) -> None:
    """Cut anywhere, a reply is never more than what came of it, and never whole too soon."""
    body = case.raw
    full = read(_stream(body, case))
    for end in range(len(body)):
        reading = read(_stream(body[:end], case))
        if full.error is None:
            assert full.text.startswith(reading.text)
        if reading.finish is not None and full.finish is not None:
            assert reading.text == full.text
            assert reading.finish.reasoning == full.finish.reasoning
            names = [call["function"]["name"] for call in full.finish.tool_calls]
            assert [c["function"]["name"] for c in reading.finish.tool_calls] == names


@pytest.mark.parametrize("case", [case for case in CHATS if case.status == 200], ids=str)
def test_a_reply_in_single_bytes(case: Case) -> None:
    """A reply that comes byte by byte is read as one that comes at once."""
    blocks = [bytes([byte]) for byte in case.raw]
    whole, drip = read(_stream(case.raw, case)), read(_stream(blocks, case))
    assert drip.pieces == whole.pieces
    assert type(drip.error) is type(whole.error)
    if whole.finish is not None and drip.finish is not None:
        assert drip.finish._arguments().keys() == FinishReason()._arguments().keys()
        assert (drip.finish.reason, drip.finish.tool_calls) == (
            whole.finish.reason,
            whole.finish.tool_calls,
        )


def _stream(body: bytes | list[bytes], case: Case):  # type: ignore[no-untyped-def]
    reply = Canned(body, (case.type or "").partition(";")[0])
    return canned(OpenAICompatible, reply, base_url="http://x/v1").stream("Hi")
