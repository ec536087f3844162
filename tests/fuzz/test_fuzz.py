"""A short run of every fuzz target; ``python -m benchmarks.fuzz`` is the long one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.inputs import inputs_for
from tests.fuzz.targets import BY_NAME, TARGETS, Target

_DRAWN = b'<img src="b29f-4a9b" fuse="true"/>'

FOUND = (
    ("before-chatgptt", b"\xff<html><![nce-of-page]><div data-nonce=1 data-post-id=2></div>"),
    ("proxy", b"so://u:\xff\xff:\xff\xff@0:1080"),
    ("usage-file", b"\xff~\xffnotes"),
    ("think-tags", b"\x00 \x00"),
    ("tool-calls", b'[{"id": "a", "function": {"name": "f"}}, {"function": {"name": 7}}]'),
    (
        "tool-calls",
        b'[{"function": {"name": "f"}}, {"index": -2, "function": {"arguments": "{}"}}]',
    ),
    ("drawn-images", b'2<img src="b2' + _DRAWN + b'9f-4a9b" fuse="true"/>'),
)
"""Inputs that once let another error out, or gave a wrong text."""

NAMES = [target.name for target in TARGETS]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_nothing_but_our_own_errors_comes_out(name: str, data: st.DataObject) -> None:
    """Whatever bytes come in, the target's own check holds and no other error comes out."""
    target = BY_NAME[name]
    target.run(data.draw(inputs_for(target)))


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_seeds_are_understood(target: Target) -> None:
    """The inputs that the search begins with pass."""
    for seed in target.seeds:
        target.run(seed)


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_stays_mended(name: str, data: bytes) -> None:
    """An input that was once a defect is none any more."""
    BY_NAME[name].run(data)
