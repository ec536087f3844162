"""What every provider promises, each checked on golden replies of its service."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from llmproviders import (
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OpenAICompatible,
    Provider,
    ServerError,
)
from llmproviders._runtime.scope import CancelScope
from llmproviders.provider import Call
from llmproviders.provider import Request as ChatRequest
from llmproviders.providers import REGISTRY
from llmproviders.testing import (
    FRAMINGS,
    ScriptedProvider,
    check_cuts,
    check_golden,
    check_provider,
)
from tests.support.golden import GOLDENS, Golden, before, goldens, provider_at


@pytest.mark.parametrize("provider", REGISTRY)
def test_every_provider_has_golden_replies(provider: str) -> None:
    """Each provider has a plain and a short golden reply that end well."""
    assert {"plain", "short"} <= {golden.name for golden in goldens(provider) if golden.finish}


@pytest.mark.parametrize("provider", REGISTRY)
def test_every_provider_is_what_it_says(provider: str) -> None:
    """It supports what it says, refuses the rest before sending, and comes out of a pickle."""
    check_provider(partial(provider_at, provider), before=before)


@pytest.mark.parametrize("golden", goldens(), ids=str)
def test_golden_replies(golden: Golden) -> None:
    """A golden reply gives its text and its end, however it travels, byte by byte too."""
    check_golden(golden, partial(provider_at, golden.provider), before=before)


CUT_UP = [golden for golden in GOLDENS if golden.name == "short" or len(golden.body) < 200]


@pytest.mark.parametrize("framing", [name for name in FRAMINGS if name != "length"])
@pytest.mark.parametrize("golden", CUT_UP, ids=str)
def test_cut_at_every_byte(golden: Golden, framing: str) -> None:
    """Cut anywhere, a reply is either whole, or a prefix of its text and then an error of ours.

    The one reply that cannot be told from a whole one is FlowGPT's, which has no end mark, cut
    between two lines where nothing but the end of the connection frames it.
    """
    make = partial(provider_at, golden.provider)
    has_end_mark = golden.provider != "flowgpt"
    check_cuts(golden, make, framing, before=before, has_end_mark=has_end_mark)


def test_hooks_by_their_old_names() -> None:
    """A class of another package that has the old names works, and is told the new ones."""

    def explain(self: Provider, error: LLMError, request: object) -> LLMError:
        error.detail = "explained"
        return error

    with pytest.warns(DeprecationWarning, match="is now called") as warned:
        old = type("Old", (ScriptedProvider,), {"explain": explain, "takes": frozenset({"seed"})})
    assert [str(one.message) for one in warned] == [
        "Old.explain is now called describe_error",
        "Old.takes is now called supported_params",
    ]
    assert old.supported_params == {"seed"}
    with pytest.raises(ServerError) as caught:
        old(error=ServerError("down")).complete("Hi")
    assert caught.value.detail == "explained"


@pytest.mark.filterwarnings("ignore:.*is now called:DeprecationWarning")
def test_super_by_an_old_name() -> None:
    """``super()`` finds the hooks of every class above by their old names, also of built-in ones.

    Below a class with the old name, ``super()`` finds it by the new one.
    """

    class Old(OpenAICompatible):
        def mend(self, *args: Any) -> str | None:
            return super().mend(*args) or "tried"  # type: ignore[misc,no-any-return]

        def explain(self, error: LLMError, request: ChatRequest) -> LLMError:
            error.detail = "explained"
            explained: LLMError = super().explain(error, request)  # type: ignore[misc]
            return explained

        def lacks(self, model: str, names: Sequence[str]) -> ModelNotFoundError:
            found: ModelNotFoundError = super().lacks(model, ["Nadir"])  # type: ignore[misc]
            return found

    class New(Old):
        def recover(self, *args: Any) -> str | None:
            return f"{super().recover(*args)} again"

    provider = New(base_url="http://127.0.0.1:9/v1")
    refusal = InvalidRequestError("no", status_code=400, detail="Unsupported parameter: seed")
    call = Call("POST", "http://127.0.0.1:9/v1", json={"model": "m", "messages": [], "seed": 1})
    fetch = SimpleNamespace(scope=CancelScope())
    recovered = provider.recover(refusal, call, ChatRequest(()), fetch)  # type: ignore[arg-type]
    assert recovered == "request without seed again"
    assert provider.recover(ServerError(""), None, ChatRequest(()), None) == "tried again"  # type: ignore[arg-type]
    assert provider.describe_error(ServerError("down"), ChatRequest(())).detail == "explained"
    assert "Nadir" in str(provider.model_not_found("Zenith", []))
