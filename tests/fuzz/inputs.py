"""Inputs for a fuzz target: noise, and what it understands with some of it changed."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.targets import Target


def inputs_for(target: Target) -> st.SearchStrategy[bytes]:
    """Bytes for ``target``."""
    piece = st.binary(max_size=6)
    if target.words:
        piece |= st.sampled_from(target.words)
    edits = st.lists(
        st.tuples(st.integers(0, 1 << 16), st.sampled_from([0, 0, 1, 5, 40]), piece), max_size=6
    )
    changed = st.builds(_change, st.sampled_from(target.seeds), edits)
    made_up = st.lists(piece, max_size=30).map(b"".join)
    return st.one_of(changed, changed, made_up, st.binary(max_size=300))


def _change(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    data = seed
    for place, dropped, added in edits:
        at = place % (len(data) + 1)
        data = data[:at] + added + data[at + dropped :]
    return data
