"""Tables of measurements and goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

PEERS = ("gigachat_sdk", "openai_sdk", "g4f_sdk")
HEAVY = ("litellm_sdk", "langchain_sdk", "pydantic_ai_sdk", "any_llm_sdk")
"""Peers that take seconds to import; they take part in what the overview has."""

HEAVY_ROUNDS = 3
"""The first rounds, in which they do."""

FRAMINGS = ("single", "block", "cut", "close", "gzip")
DELAYED = {
    "single": "chunked",
    "split": "chunks that end anywhere",
    "close": "close-delimited",
    "gzip": "gzip",
}
"""Framings in which a piece is sent as soon as there is one, and how goals call them."""

COMPARABLE = frozenset(
    f"own{variant}"
    for variant in (
        "",
        ".used",
        ".openai",
        ".gigachat",
        ".failover",
        ".chatglm",
        ".chatgptt",
        ".flowgpt",
    )
)
"""What earlier releases of this library have, too."""


@dataclass(frozen=True)
class Scenario:
    """One measurement of several clients side by side.

    Attributes:
        name: its name in results and goals.
        measure: a function of :mod:`.sample`, or one of :mod:`.startup`.
        clients: the clients that take part; those not installed are left out.
        service: the server's protocol.
        framing: how it splits its replies; for ``calls`` and ``batch`` the number of threads.
        pieces: of text in a reply; for ``added`` calls of a function, for ``validation`` items.
        pace: ``"once"``, ``"each"`` or milliseconds between pieces; see :mod:`.server`.
        count: how often within a sample.
        fewer: client -> pieces, for those that would take minutes.
        rarer: client -> count, for the same reason.
        peers: the clients that take part if their environments exist.
    """

    name: str
    measure: str
    clients: tuple[str, ...]
    service: str = "chat"
    framing: str = "single"
    pieces: int = 5
    pace: str = "once"
    count: int = 1
    fewer: Mapping[str, int] = field(default_factory=dict)
    rarer: Mapping[str, int] = field(default_factory=dict)
    peers: tuple[str, ...] = ()


_PLAIN = ("plain.lines", "plain.content", "plain.prepared")
_CHAT = ("own.openai", "own.gigachat")
_SLOW = {
    "litellm_sdk": 1_000,
    "langchain_sdk": 4_000,
    "pydantic_ai_sdk": 4_000,
    "any_llm_sdk": 4_000,
}
_FIRST = dict.fromkeys(HEAVY, 60)
_CALLS = dict.fromkeys(HEAVY, 20)


def full() -> list[Scenario]:
    """Everything."""
    plan = [
        Scenario(
            f"cpu {framing}",
            "cpu",
            ("floor", *_CHAT, "own.failover", "plain.lines", "plain.content"),
            framing=framing,
            pieces=20_000,
            fewer=_SLOW,
            peers=PEERS + HEAVY if framing == "single" else (),
        )
        for framing in FRAMINGS
    ]
    plan += [
        Scenario("server", "drain", ("floor.drain", "floor", "own.openai"), pieces=20_000),
        _flowgpt(20_000),
        _chatgptt(20_000),
        *(_chatglm(pieces) for pieces in (1_000, 2_000)),
        *(
            Scenario(
                f"growth {pieces}",
                "cpu",
                ("floor", "own.openai", "plain.lines"),
                pieces=pieces,
                count=max(1, 2_000 // pieces),
                peers=PEERS if pieces <= 10_000 else (),
            )
            for pieces in (100, 1_000, 10_000, 100_000)
        ),
        *(
            Scenario(
                f"delay {framing}",
                "delay",
                (*_CHAT, "plain.lines", *(("own.failover",) if framing == "single" else ())),
                framing=framing,
                pieces=200,
                pace="10",
                peers=PEERS + HEAVY if framing == "single" else PEERS,
            )
            for framing in DELAYED
        ),
        Scenario(
            "first",
            "first",
            ("floor", *_CHAT, "own.failover", *_PLAIN),
            count=300,
            rarer=_FIRST,
            peers=PEERS + HEAVY,
        ),
        Scenario(
            "cold", "cold", ("floor", *_CHAT, "own.failover", "plain.lines"), peers=PEERS + HEAVY
        ),
        *(
            Scenario(
                f"calls {threads}",
                "calls",
                ("floor", "own.openai", "own.failover", "plain.post")
                if threads == 1
                else ("own.openai", "own.failover", "plain.post"),
                framing=str(threads),
                count=800 // threads,
                rarer=_CALLS,
                peers=() if threads == 1 else PEERS + HEAVY,
            )
            for threads in (1, 16)
        ),
        Scenario(
            "connections",
            "connections",
            (*_CHAT, "own.failover", "plain.lines"),
            count=100,
            peers=PEERS,
        ),
        *(
            Scenario(
                f"connections {service}",
                "connections",
                (f"own.{service}",),
                service=service,
                count=100,
            )
            for service in ("chatglm", "flowgpt")
        ),
        _failover(200),
        *beside(),
        *startup(),
        Scenario(
            "memory stream",
            "memory_stream",
            (*_CHAT, "own.failover", "plain.lines"),
            pieces=100_000,
            fewer={"openai_sdk": 20_000, "g4f_sdk": 20_000},
            peers=PEERS,
        ),
        Scenario(
            "memory calls",
            "memory_calls",
            ("own.openai", "own.failover", "plain.post"),
            count=4_000,
        ),
    ]
    return plan


def _flowgpt(pieces: int) -> Scenario:
    return Scenario("flowgpt", "cpu", ("floor", "own.flowgpt"), service="flowgpt", pieces=pieces)


def _chatgptt(pieces: int) -> Scenario:
    return Scenario("chatgptt", "cpu", ("floor", "own.chatgptt"), service="page", pieces=pieces)


def _chatglm(pieces: int) -> Scenario:
    return Scenario(
        f"chatglm {pieces}", "cpu", ("floor", "own.chatglm"), service="chatglm", pieces=pieces
    )


def _failover(count: int) -> Scenario:
    return Scenario("failover", "beside", ("own.failover",), pieces=1_000, count=count)


def beside(share: int = 1) -> list[Scenario]:
    """What stands before, behind or around a call, at ``1 / share`` of the full count."""
    return [
        Scenario("limits", "added", ("own.limited",), count=300 // share),
        Scenario("run", "added", ("own.run",), service="tools", pieces=10, count=30 // share),
        Scenario("cached", "call", ("own.cached",), count=300 // share),
        Scenario("schema", "validation", ("own",), pieces=30, count=300 // share),
        Scenario("batch", "batch", ("own",), framing="8", count=400 // share),
    ]


def comparable() -> list[Scenario]:
    """What can be measured at an earlier commit of this library, too, and is never zero."""
    new = ("validation", "batch", "added", "call", "beside", "memory_stream")
    return [s for s in full() if COMPARABLE & {*s.clients} and s.measure not in new]


def startup() -> list[Scenario]:
    """Measurements of the time before the first request."""
    return [
        Scenario("import", "importing", ("own", "own.used", "plain.tenacity"), peers=PEERS + HEAVY),
        Scenario("help", "helping", ("python", "own")),
    ]


def short() -> list[Scenario]:
    """The short plan for CI, without peers."""
    return [
        Scenario("cpu single", "cpu", ("floor", *_CHAT), pieces=4_000),
        Scenario("cpu block", "cpu", ("floor", *_CHAT), framing="block", pieces=4_000),
        _chatglm(1_000),
        _flowgpt(4_000),
        *(
            Scenario(
                f"delay {framing}",
                "delay",
                ("own.openai",),
                framing=framing,
                pieces=60,
                pace="10",
            )
            for framing in DELAYED
        ),
        Scenario("first", "first", ("floor", "own.openai", "plain.lines"), pace="each", count=100),
        Scenario("calls 16", "calls", ("own.openai", "plain.post"), framing="16", count=15),
        Scenario("connections", "connections", ("own.openai", "own.failover"), count=50),
        _failover(50),
        *beside(share=10),
        *startup(),
        Scenario("memory stream", "memory_stream", ("own.openai",), pieces=30_000),
    ]


# -- goals

Numbers = Callable[[str, str, str], Sequence[float]]
"""A scenario's number for a client, one for each round: scenario, client, number."""


@dataclass(frozen=True)
class Goal:
    """A number that must not be larger than ``most``, or not smaller than ``least``.

    Attributes:
        said: its description in the table.
        values: computes it from the measurements, round by round; the median counts. A ``KeyError``
            means that something was not measured.
        most: its bound.
        least: its bound the other way round.
        slack: the factor by which the short form may miss it: a CI machine is small and busy.
    """

    said: str
    values: Callable[[Numbers], Sequence[float]]
    most: float = inf
    least: float = -inf
    slack: float = 2.0

    def met(self, value: float, *, short: bool = False) -> bool:
        """Whether ``value`` is within the bound."""
        slack = self.slack if short else 1.0
        return self.least / slack <= value <= self.most * slack


def _ratio(
    scenario: str, client: str, other: str, number: str = "cpu"
) -> Callable[[Numbers], Sequence[float]]:
    def values(of: Numbers) -> list[float]:
        # Who does not take part in every round is there in the first ones.
        pairs = zip(of(scenario, client, number), of(scenario, other, number), strict=False)
        return [one / another for one, another in pairs]

    return values


def _growth(of: Numbers) -> list[float]:
    """How much faster the cost of an event grows than that of the floor."""
    short, long = (_ratio(f"chatglm {n}", "own.chatglm", "floor")(of) for n in (1_000, 2_000))
    return [one / another for one, another in zip(long, short, strict=True)]


def _in_ms(framing: str) -> Callable[[Numbers], Sequence[float]]:
    return lambda of: [us / 1000 for us in of(f"delay {framing}", "own.openai", "p99")]


def _in_ms_of(scenario: str, client: str) -> Callable[[Numbers], Sequence[float]]:
    return lambda of: [us / 1000 for us in of(scenario, client, "wall")]


def _plain(scenario: str, client: str, number: str) -> Callable[[Numbers], Sequence[float]]:
    return lambda of: of(scenario, client, number)


_PER_PIECE_BESIDE = {
    "gigachat_sdk": 0.25,
    "openai_sdk": 0.05,
    "g4f_sdk": 0.05,
    "litellm_sdk": 0.01,
    "langchain_sdk": 0.05,
    "pydantic_ai_sdk": 0.05,
    "any_llm_sdk": 0.05,
}
_NAMES = {"own.gigachat": "GigaChat", "own.openai": "OpenAICompatible"}

GOALS = (
    *(
        Goal(
            f"CPU per piece, {name}, {said}, x floor",
            _ratio(f"cpu {framing}", client, "floor"),
            most,
        )
        for client, name in _NAMES.items()
        for framing, said, most in (
            ("single", "single chunks", 1.2),
            ("block", "16 KiB blocks", 0.7),
            ("gzip", "gzip", 1.6),
        )
    ),
    *(
        Goal(f"CPU per piece, x {peer}", _ratio("cpu single", "own.gigachat", peer), most)
        for peer, most in _PER_PIECE_BESIDE.items()
    ),
    Goal(
        "ChatGLM, 1,000 cumulative events, x floor",
        _ratio("chatglm 1000", "own.chatglm", "floor"),
        0.6,
    ),
    Goal("ChatGLM, growth from 1,000 to 2,000 events, x floor's", _growth, 1.1),
    Goal("FlowGpt, x its floor", _ratio("flowgpt", "own.flowgpt", "floor"), 1.3),
    *(
        Goal(f"delay of a piece, p99, {said}, ms", _in_ms(framing), 1.2, slack=25.0)
        for framing, said in DELAYED.items()
    ),
    Goal(
        "warm first text, x floor", _ratio("first", "own.openai", "floor", "wall"), 4.0, slack=4.0
    ),
    Goal(
        "warm first text, GigaChat, x gigachat_sdk",
        _ratio("first", "own.gigachat", "gigachat_sdk", "wall"),
        0.6,
    ),
    Goal("cold first text, x floor", _ratio("cold", "own.openai", "floor", "wall"), 4.5),
    Goal(
        "cold first text, GigaChat, x gigachat_sdk",
        _ratio("cold", "own.gigachat", "gigachat_sdk", "wall"),
        0.35,
    ),
    *(
        Goal(f"cold first text, x {peer}", _ratio("cold", "own.openai", peer, "wall"), 1.0)
        for peer in PEERS[1:] + HEAVY
    ),
    *(
        Goal(
            f"connections for 100 calls, {client}",
            _plain(scenario, client, "connections"),
            1,
            slack=1.0,
        )
        for scenario, client in (
            ("connections", "own.openai"),
            ("connections", "own.gigachat"),
            ("connections", "own.failover"),
            ("connections chatglm", "own.chatglm"),
            ("connections flowgpt", "own.flowgpt"),
        )
    ),
    Goal(
        "FailoverClient over its provider, CPU of a stream of 1,000 pieces",
        _plain("failover", "own.failover", "stream"),
        1.03,
        slack=1.3,
    ),
    Goal(
        "FailoverClient over its provider, microseconds a call",
        _plain("failover", "own.failover", "call"),
        100,
        slack=5.0,
    ),
    Goal("limits and usage, ms a call", _in_ms_of("limits", "own.limited"), 0.5, slack=10.0),
    Goal("run, ms a turn over a loop by hand", _in_ms_of("run", "own.run"), 0.3, slack=10.0),
    Goal("a reply from Cached, ms", _in_ms_of("cached", "own.cached"), 1.0, slack=10.0),
    Goal(
        "a reply against a type, x pydantic alone", _plain("schema", "own", "ratio"), 1.2, slack=4.0
    ),
    Goal("batch.map, rows a second, x threads", _plain("batch", "own", "ratio"), least=0.9),
    Goal("import, x requests and tenacity", _ratio("import", "own", "plain.tenacity"), 0.15),
    Goal(
        "import, once a first call has loaded all, x requests and tenacity",
        _ratio("import", "own.used", "plain.tenacity"),
        1.2,
        slack=1.5,
    ),
    Goal("llmproviders --help, x a bare interpreter", _ratio("help", "own", "python"), 2.5),
    Goal("growth over a long stream, MiB", _plain("memory stream", "own.openai", "mib"), 1.0),
    Goal(
        "complete, calls per second, 16 threads, x requests.post",
        _ratio("calls 16", "own.openai", "plain.post", "per_s"),
        least=1.3,
    ),
)
