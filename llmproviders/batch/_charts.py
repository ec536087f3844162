"""The charts of a batch's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, floor, log10

from .._display.bars import BOTTOM, CHART, LEFT, WIDTH, stacked_bars
from .._display.svg import bar, group, legend, picture, swatch, text, upright
from .._display.text import FINAL, GOOD, HALF, NEUTRAL, PASSING, count, seconds, shorten, ticks
from .._display.timeline import AttemptOutcome

_BINS_A_DECADE = 12

_FEWEST_BINS = 12

_SLICES = 60

_SHARES = ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))


def latencies(whole: Sequence[float], half: Sequence[float], failed: Sequence[float]) -> str:
    """A histogram of the seconds that rows took, on a logarithmic axis."""
    every = sorted((*whole, *half, *failed))
    series = [("whole", GOOD, whole), ("cut", HALF, half), ("failed", FINAL, failed)]
    if not half:
        del series[1]
    places = [_bin(value) for value in (every[0], every[-1])]
    first = places[0] - max(0, _FEWEST_BINS - (places[1] - places[0])) // 2
    bins = max(places[1] - first + 1, _FEWEST_BINS)

    def x(value: float) -> float:
        at = log10(max(value, 1e-4)) * _BINS_A_DECADE - first
        return LEFT + CHART * at / bins

    histograms = [(colour, _histogram(times, first, bins)) for _, colour, times in series]
    stacks = [
        (
            f"{seconds(_edge(first + n))} to {seconds(_edge(first + n + 1))}",
            [(colour, counted[n]) for colour, counted in histograms],
        )
        for n in range(bins)
    ]
    shares = [(words, every[ceil(share * len(every)) - 1]) for share, words in _SHARES]
    marks = [
        _share(x(value), 14 * n + 8, f"{words} {seconds(value)}")
        for n, (words, value) in enumerate(shares)
    ]
    axis = [
        text(x(value), BOTTOM + 12, f"{value:g} s", anchor="middle", faint=True)
        for value in _round_values(_edge(first), _edge(first + bins))
    ]
    meanings = [(word, swatch(colour)) for word, colour, _ in series]
    numbers = ", ".join(f"{len(times):,} {word}" for word, _, times in series[1:])
    story = f"{count(len(whole), 'row')} whole, {numbers}; " + ", ".join(
        f"{words} {seconds(value)}" for words, value in shares
    )
    return stacked_bars("How long rows took", story, stacks, [*marks, *axis], meanings)


def _share(x: float, middle: float, words: str) -> str:
    outside = x > LEFT + 0.85 * CHART
    side, anchor = (x - 4, "end") if outside else (x + 4, "start")
    line = upright(x, middle + 4, BOTTOM, opacity=0.6, dashes="2 4")
    return line + text(side, middle, words, anchor=anchor)


def tries(first: Sequence[float], again: Sequence[float]) -> str:
    """The number of first tries and of retries that began in each slice of time."""
    begun = min((*first, *again))
    span = max(max((*first, *again)) - begun, 1e-3)

    def slices(starts: Iterable[float]) -> list[int]:
        counted = Counter(min(int((at - begun) / span * _SLICES), _SLICES - 1) for at in starts)
        return [counted[n] for n in range(_SLICES)]

    stacks = [
        (f"from {seconds(n * span / _SLICES)}", [(NEUTRAL, new), (PASSING, more)])
        for n, (new, more) in enumerate(zip(slices(first), slices(again), strict=True))
    ]
    axis = [
        text(LEFT + CHART * at / span, BOTTOM + 12, label, anchor="middle", faint=True)
        for at, label in ticks(span, 10)
    ]
    meanings = [
        ("first try of a row", swatch(NEUTRAL)),
        ("retry or next provider", swatch(PASSING)),
    ]
    story = f"{len(first):,} first tries, {len(again):,} after them, "
    return stacked_bars("Attempts over time", f"{story}in {seconds(span)}", stacks, axis, meanings)


def outcomes(by_provider: Mapping[str, Mapping[AttemptOutcome, int]]) -> str:
    """How the attempts of each provider ended, a bar for each."""
    left, chart, row = 150, 460, 28
    most = max(sum(counted.values()) for counted in by_provider.values())
    parts, stories = [], []
    for number, (provider, counted) in enumerate(by_provider.items()):
        middle = 16 + row * number
        told = [f"{counted[o]:,} {o.label}" for o in AttemptOutcome if counted.get(o)]
        stories.append(f"{provider}: {', '.join(told)}")
        x = float(left)
        parts.append(text(left - 12, middle, shorten(provider, 22), anchor="end"))
        for outcome in AttemptOutcome:
            width = chart * counted.get(outcome, 0) / most
            if width:
                parts.append(
                    group(
                        f"{counted[outcome]:,} {outcome.label}",
                        bar(x, middle - 8, width, 16, outcome.colour),
                    )
                )
                x += width
        parts.append(text(x + 10, middle, _in_short(counted)))
    present = {outcome for counted in by_provider.values() for outcome in counted}
    meanings, below = legend(
        [(o.label, swatch(o.colour)) for o in AttemptOutcome if o in present],
        16 + row * len(by_provider) + 12,
        width=WIDTH,
        left=12.0,
    )
    return picture(
        "How attempts ended, by provider",
        ". ".join(stories),
        "".join(parts) + meanings,
        width=WIDTH,
        height=below + 16,
    )


def _in_short(counted: Mapping[AttemptOutcome, int]) -> str:
    whole, every = counted.get(AttemptOutcome.WHOLE, 0), sum(counted.values())
    return f"{whole:,} of {every:,} whole ({whole / every:.1%})"


def _bin(value: float) -> int:
    return floor(log10(max(value, 1e-4)) * _BINS_A_DECADE)


def _edge(place: int) -> float:
    return float(10.0 ** (place / _BINS_A_DECADE))


def _histogram(values: Iterable[float], first: int, bins: int) -> list[int]:
    counted = Counter(_bin(value) - first for value in values)
    return [counted[n] for n in range(bins)]


def _round_values(start: float, end: float) -> list[float]:
    values = [
        factor * 10.0**power
        for power in range(floor(log10(start)), ceil(log10(end)) + 1)
        for factor in (1, 2, 5)
    ]
    return [value for value in values if start <= value <= end]
