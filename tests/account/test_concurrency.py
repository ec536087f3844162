"""Places: how many requests of one key run at a time, in a process and across processes."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmproviders import (
    DeadlineExceeded,
    GigaChat,
    LLMError,
    OpenAICompatible,
    ProviderTimeout,
    RateLimitError,
)
from llmproviders._account import slots
from llmproviders._account.keys import digest
from llmproviders._account.slots import Slot
from llmproviders._runtime.files import try_lock
from llmproviders._runtime.scope import SYSTEM_CLOCK, CancelScope, Waker
from llmproviders.sandbox import Sandbox
from tests.support.processes import Child, in_child

PATIENCE_S = 30.0


@pytest.fixture
def credential() -> str:
    """A credential that nobody used before."""
    return uuid.uuid4().hex


def within(seconds: float | None = PATIENCE_S) -> CancelScope:
    """How long one call may take."""
    return CancelScope.lasting(seconds, clock=SYSTEM_CLOCK)


def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    tick = threading.Event()
    for _ in range(int(PATIENCE_S / 0.002)):
        if condition():
            return
        tick.wait(0.002)
    raise AssertionError("it never came true")


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock on a file."""
    if not path.exists():
        return False
    held = try_lock(path, CancelScope())
    if held is not None:
        held.release()
    return held is None


class Holder:
    """A thread that takes a place, and keeps it until it is told to give it back."""

    def __init__(self, place: Slot) -> None:
        self.slot = place
        self.inside = threading.Event()
        self.leave = threading.Event()
        self.waited: float | None = None
        self.error: LLMError | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self.slot as self.waited:
                self.inside.set()
                assert self.leave.wait(PATIENCE_S)
        except LLMError as error:
            self.error = error

    def end(self) -> None:
        """Give the place back."""
        self.leave.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@pytest.fixture
def hold() -> Iterator[Callable[[Slot], Holder]]:
    """Return a function that has a thread take a place; all are given back in the end."""
    with ExitStack() as holders:

        def start(place: Slot) -> Holder:
            holder = Holder(place)
            holders.callback(holder.end)
            return holder

        yield start


Hold = Callable[[Slot], Holder]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file whose sharers count their places together."""
    return tmp_path / "cache" / "tokens.json"


class TestWake:
    def test_before_the_wait(self) -> None:
        """A wake that came before the wait ends it, and coming twice does no harm."""
        wake = Waker()
        wake.set()
        wake.set()
        assert wake.wait(0)
        within().wait(wake)

    def test_deadline(self) -> None:
        """Without a wake the wait ends at the deadline."""
        with pytest.raises(DeadlineExceeded):
            within(0.02).wait(Waker())


@pytest.fixture
def collecting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage may be collected, however long that took in the tests before."""
    monkeypatch.setattr(slots, "_collect_again_at", 0.0)


class TestInOneProcess:
    def test_free_place(self, credential: str) -> None:
        """A place that is free is had at once, and shows no wait."""
        for _ in range(3):
            with Slot(credential, 1, within()) as waited:
                assert waited == 0.0

    def test_second_waits(self, credential: str, hold: Hold) -> None:
        """The second of two threads waits for its turn, and its wait is told."""
        first = hold(Slot(credential, 1, within()))
        assert first.inside.wait(PATIENCE_S)
        second = hold(Slot(credential, 1, within()))
        assert not second.inside.wait(0.05)
        first.end()
        assert second.inside.wait(PATIENCE_S)
        assert first.waited == 0.0
        assert second.waited is not None
        assert second.waited >= 0.05

    def test_first_come_first_served(self, credential: str, hold: Hold) -> None:
        """Who waits longer is served first, and nobody overtakes."""
        first = hold(Slot(credential, 1, within()))
        assert first.inside.wait(PATIENCE_S)
        line = []
        for length in range(1, 5):
            line.append(hold(Slot(credential, 1, within())))
            pool = first.slot._pool
            eventually(lambda pool=pool, length=length: len(pool._waiting) == length)
        for before, after in zip([first, *line], line, strict=False):
            assert not after.inside.is_set()
            before.end()
            assert after.inside.wait(PATIENCE_S)

    def test_limit(self, credential: str) -> None:
        """With many threads there are never more inside than allowed, and all get in."""
        inside, most, done = [0], [0], [0]
        guard = threading.Lock()

        def run() -> None:
            for _ in range(25):
                with Slot(credential, 3, within()):
                    with guard:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    with guard:
                        inside[0] -= 1
                        done[0] += 1

        threads = [threading.Thread(target=run) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert done == [400]
        assert most[0] <= 3

    def test_keys_do_not_wait_for_one_another(self, credential: str, hold: Hold) -> None:
        """Places are counted for each credential."""
        assert hold(Slot(credential, 1, within())).inside.wait(PATIENCE_S)
        with Slot(f"another-{credential}", 1, within()) as waited:
            assert waited == 0.0

    def test_deadline(self, credential: str, hold: Hold) -> None:
        """A wait ends at the deadline, and who gave up is not in the others' way."""
        first = hold(Slot(credential, 1, within()))
        assert first.inside.wait(PATIENCE_S)
        with pytest.raises(DeadlineExceeded):
            Slot(credential, 1, within(0.02)).__enter__()
        first.end()
        with Slot(credential, 1, within()) as waited:
            assert waited == 0.0

    def test_cancelled(self, credential: str, hold: Hold) -> None:
        """A wait ends at once when its call is ended from another thread."""
        assert hold(Slot(credential, 1, within())).inside.wait(PATIENCE_S)
        scope = within(None)
        waiting = hold(Slot(credential, 1, scope))
        assert not waiting.inside.wait(0.02)
        scope.cancel("another was faster")
        waiting.thread.join(PATIENCE_S)
        assert isinstance(waiting.error, ProviderTimeout)
        assert str(waiting.error) == "another was faster"

    def test_given_up_as_it_is_granted(self, credential: str) -> None:
        """A place that comes in the moment in which the wait is given up is not lost."""
        first = Slot(credential, 1, within())
        first.__enter__()

        class Ending(CancelScope):
            """Ends just when the place is given back."""

            def attach(self, owner: object, cut: Callable[[], None]) -> None:
                if isinstance(owner, Waker):
                    first.__exit__(None, None, None)
                    self.cancel()
                super().attach(owner, cut)

        first._waiter.thread = threading.Thread()
        with pytest.raises(ProviderTimeout):
            Slot(credential, 1, Ending()).__enter__()
        with Slot(credential, 1, within(1.0)) as waited:
            assert waited == 0.0

    def test_given_back_in_another_thread(self, credential: str) -> None:
        """A place may be given back by another thread than took it."""
        place = Slot(credential, 1, within())
        place.__enter__()
        thread = threading.Thread(target=place.__exit__, args=(None, None, None))
        thread.start()
        thread.join()
        with Slot(credential, 1, within()) as waited:
            assert waited == 0.0

    @pytest.mark.usefixtures("collecting_at_once")
    def test_dropped(self, credential: str) -> None:
        """A generator that is dropped with a place gives it back, out of a cycle too."""

        def stream() -> Iterator[str]:
            with Slot(credential, 1, within()):
                yield "text"
                yield "more"

        def drop_in_a_cycle() -> None:
            cycle = [stream()]
            next(cycle[0])
            cycle.append(cycle)  # type: ignore[arg-type]

        dropped = stream()
        next(dropped)
        del dropped
        gc.disable()
        try:
            drop_in_a_cycle()
            with Slot(credential, 1, within()):
                pass
            thread = threading.Thread(target=drop_in_a_cycle)
            thread.start()
            thread.join()
            with Slot(credential, 1, within()):
                pass
        finally:
            gc.enable()

    @pytest.mark.usefixtures("collecting_at_once")
    def test_dropped_by_a_thread_that_lives_on(self, credential: str) -> None:
        """A stream that another, living thread dropped in a cycle keeps nobody waiting."""
        dropped, over = threading.Event(), threading.Event()

        def drop() -> None:
            cycle: list[object] = [self._holding(credential)]
            cycle.append(cycle)
            del cycle
            dropped.set()
            over.wait(PATIENCE_S)

        thread = threading.Thread(target=drop)
        gc.disable()
        try:
            thread.start()
            assert dropped.wait(PATIENCE_S)
            with Slot(credential, 1, within()):
                pass
        finally:
            gc.enable()
            over.set()
            thread.join()

    @pytest.mark.usefixtures("collecting_at_once")
    def test_dropped_while_others_wait(self, credential: str, hold: Hold) -> None:
        """Nor does one that is dropped when somebody waits already."""
        streams = [self._holding(credential)]
        gc.disable()
        try:
            waiting = hold(Slot(credential, 1, within()))
            assert not waiting.inside.wait(0.05)
            streams.append(streams)  # type: ignore[arg-type]
            del streams
            assert waiting.inside.wait(PATIENCE_S)
        finally:
            gc.enable()

    @staticmethod
    def _holding(credential: str) -> Iterator[str]:
        def stream() -> Iterator[str]:
            with Slot(credential, 1, within()):
                yield "text"

        holding = stream()
        next(holding)
        return holding

    @pytest.mark.usefixtures("collecting_at_once")
    def test_collecting_takes_little_time(
        self, credential: str, hold: Hold, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many wait, a tenth of the time at most goes into collecting garbage."""
        collected: list[float] = []
        began = time.monotonic()

        def collect() -> None:
            collected.append(time.monotonic())
            time.sleep(0.02)

        monkeypatch.setattr(gc, "collect", collect)
        first = hold(Slot(credential, 1, within()))
        assert first.inside.wait(PATIENCE_S)
        waiting = [hold(Slot(credential, 1, within())) for _ in range(10)]
        time.sleep(0.5)
        assert len(collected) <= 1 + (time.monotonic() - began) / 0.2
        first.end()
        for holder in waiting:
            holder.end()

    def test_two_limits(self, credential: str, hold: Hold) -> None:
        """Those of another limit for the same key share: nobody enters above a limit of its own."""
        two = hold(Slot(credential, 2, within()))
        assert two.inside.wait(PATIENCE_S)
        one = hold(Slot(credential, 1, within()))
        assert not one.inside.wait(0.05)
        another = hold(Slot(credential, 2, within()))
        assert another.inside.wait(PATIENCE_S)
        third = hold(Slot(credential, 2, within()))
        assert not third.inside.wait(0.05)
        two.end()
        assert third.inside.wait(PATIENCE_S)
        assert not one.inside.wait(0.05)
        another.end()
        assert not one.inside.wait(0.05)
        third.end()
        assert one.inside.wait(PATIENCE_S)

    def test_a_smaller_limit_keeps_nobody_else_waiting(self, credential: str, hold: Hold) -> None:
        """A thread with a stream open gets another place past one that waits for that stream."""
        with Slot(credential, 2, within()):
            one = hold(Slot(credential, 1, within()))
            assert not one.inside.wait(0.05)
            with Slot(credential, 2, within()) as waited:
                assert waited == 0.0
            assert not one.inside.is_set()
        assert one.inside.wait(PATIENCE_S)

    def test_many_limits(self, credential: str) -> None:
        """Threads with many limits are never more inside than the largest, and all get in."""
        inside: list[int] = []
        most: list[int] = []

        def run(limit: int) -> None:
            for _ in range(20):
                with Slot(credential, limit, within()):
                    inside.append(limit)
                    most.append(len(inside))
                    inside.pop()

        threads = [threading.Thread(target=run, args=(n % 4 + 1,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(most) == 240
        assert max(most) <= 4

    def test_a_large_limit_costs_nothing(self, credential: str, file: Path) -> None:
        """What places cost hangs on how many are held, not on how many there may be."""
        with Slot(credential, 1, within(), file=file.with_name("first.json")):
            pass  # Whatever is imported for it, is.
        tracemalloc.start()
        try:
            with Slot(credential, 10**6, within(), file=file):
                _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 1_000_000
        locks = file.with_name("tokens.json.locks")
        assert len(list(locks.iterdir())) == 2

    def test_after_an_error(self, credential: str) -> None:
        """A place is given back when the request fails."""
        with pytest.raises(ValueError, match="bad"), Slot(credential, 1, within()):
            raise ValueError("bad")
        with Slot(credential, 1, within()) as waited:
            assert waited == 0.0

    def test_own_open_stream(self, credential: str) -> None:
        """A thread that would wait for itself is told so, instead of waiting for ever."""
        with (
            Slot(credential, 1, within(None)),
            pytest.raises(RateLimitError, match="holds open itself"),
            Slot(credential, 1, within(None)),
        ):
            pass
        with Slot(credential, 1, within()) as waited:
            assert waited == 0.0

    def test_own_and_anothers_stream(self, credential: str, hold: Hold) -> None:
        """As long as another thread has a place, waiting makes sense."""
        other = hold(Slot(credential, 2, within()))
        assert other.inside.wait(PATIENCE_S)
        timer = threading.Timer(0.05, other.leave.set)
        with Slot(credential, 2, within()):
            timer.start()
            with Slot(credential, 2, within()) as waited:
                assert waited > 0
        timer.join()

    def test_fork(self, credential: str) -> None:
        """A forked child has places of its own, and leaves its parent's alone."""
        mine = Slot(credential, 1, within())
        mine.__enter__()

        def child() -> None:
            with Slot(credential, 1, within(1.0)) as waited:
                assert waited == 0.0
            mine.__exit__(None, None, None)

        in_child(child)
        with pytest.raises(RateLimitError):
            Slot(credential, 1, within()).__enter__()
        mine.__exit__(None, None, None)


class Occupant:
    """A process that takes a shared place, says so, and keeps it until it is told to end."""

    def __init__(self, credential: str, file: Path, *, limit: int = 1) -> None:
        self._inside, told = os.pipe()
        heard, self._leave = os.pipe()

        def run() -> None:
            with Slot(credential, limit, within(), file=file):
                os.write(told, b"!")
                os.read(heard, 1)

        self.child = Child(run)
        os.close(told)
        os.close(heard)
        assert os.read(self._inside, 1) == b"!"

        self._ended = False

    def end(self) -> None:
        """Have it give its place back."""
        os.write(self._leave, b"!")
        self._close()
        self.child.wait()

    def kill(self) -> None:
        """End it as it stands, unless it has ended."""
        if not self._ended:
            self._close()
            self.child.kill()

    def _close(self) -> None:
        self._ended = True
        os.close(self._inside)
        os.close(self._leave)


@pytest.fixture
def occupy(credential: str, file: Path) -> Iterator[Callable[..., Occupant]]:
    """Return a function that has another process take a place; none outlasts the test."""
    with ExitStack() as occupants:

        def start(limit: int = 1) -> Occupant:
            occupant = Occupant(credential, file, limit=limit)
            occupants.callback(occupant.kill)
            return occupant

        yield start


Occupy = Callable[..., Occupant]


class TestAcrossProcesses:
    def test_second_waits(self, credential: str, file: Path, occupy: Occupy) -> None:
        """A process waits for another one's place, and its wait is told."""
        other = occupy()
        with pytest.raises(DeadlineExceeded):
            Slot(credential, 1, within(0.1), file=file).__enter__()
        timer = threading.Timer(1.0, other.end)
        timer.start()
        with Slot(credential, 1, within(), file=file) as waited:
            assert waited > 0
        timer.join()
        with Slot(credential, 1, within(), file=file) as waited:
            assert waited == 0.0

    def test_killed(self, credential: str, file: Path, occupy: Occupy) -> None:
        """A process that is killed leaves no place taken."""
        occupy().kill()
        with Slot(credential, 1, within(), file=file):
            pass

    def test_limit(self, credential: str, file: Path, occupy: Occupy) -> None:
        """All processes together have as many places as allowed."""
        others = [occupy(2) for _ in range(2)]
        with pytest.raises(DeadlineExceeded):
            Slot(credential, 2, within(0.1), file=file).__enter__()
        others.pop().end()
        with Slot(credential, 2, within(), file=file):
            pass
        others.pop().end()

    def test_two_limits(self, credential: str, file: Path, occupy: Occupy) -> None:
        """Processes with other limits for the same key share: nobody enters above its own."""
        two, another = occupy(2), occupy(2)
        for limit in (1, 2):
            with pytest.raises(DeadlineExceeded):
                Slot(credential, limit, within(0.1), file=file).__enter__()
        with Slot(credential, 3, within(), file=file):
            pass
        two.end()
        with pytest.raises(DeadlineExceeded):
            Slot(credential, 1, within(0.1), file=file).__enter__()
        with Slot(credential, 2, within(), file=file):
            pass
        another.end()
        with Slot(credential, 1, within(), file=file):
            pass

    def test_a_smaller_limit_keeps_nobody_else_waiting(
        self, credential: str, file: Path, hold: Hold, occupy: Occupy
    ) -> None:
        """A process that waits by a smaller limit does not stand in the way of others."""
        two = occupy(2)
        one = hold(Slot(credential, 1, within(), file=file))
        assert not one.inside.wait(0.1)
        occupy(2).end()
        two.end()
        assert one.inside.wait(PATIENCE_S)

    def test_cancelled(self, credential: str, file: Path, occupy: Occupy) -> None:
        """A wait for another process ends when its call is ended."""
        other = occupy()
        scope = within(None).cancellable()
        timer = threading.Timer(0.05, scope.cancel, args=["another was faster"])
        timer.start()
        with pytest.raises(ProviderTimeout, match="another was faster"):
            Slot(credential, 1, scope, file=file).__enter__()
        timer.join()
        other.end()

    def test_who_waits_comes_first(
        self, credential: str, file: Path, hold: Hold, occupy: Occupy
    ) -> None:
        """Processes that come later stand behind one that has been waiting."""
        first = occupy()
        waiting = hold(Slot(credential, 1, within(), file=file))
        door = file.with_name("tokens.json.locks") / f"{credential[:16]}.1.door"
        eventually(lambda: is_locked(door))
        inside, told = os.pipe()

        def come_later() -> None:
            with Slot(credential, 1, within(), file=file):
                os.write(told, b"!")

        later = [Child(come_later) for _ in range(4)]
        first.end()
        assert waiting.inside.wait(PATIENCE_S)
        os.set_blocking(inside, False)
        with pytest.raises(BlockingIOError):
            os.read(inside, 1)
        waiting.end()
        for child in later:
            child.wait()
        assert os.read(inside, 9) == b"!!!!"
        os.close(inside)
        os.close(told)

    def test_inherited(self, credential: str, file: Path) -> None:
        """A child that drops what it inherited does not give its parent's place away."""
        mine = Slot(credential, 1, within(), file=file)
        mine.__enter__()

        def child() -> None:
            mine.__exit__(None, None, None)
            with pytest.raises(DeadlineExceeded):
                Slot(credential, 1, within(0.1), file=file).__enter__()

        in_child(child)
        mine.__exit__(None, None, None)
        with Slot(credential, 1, within(), file=file) as waited:
            assert waited == 0.0

    def test_unusable_folder(
        self, credential: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where files cannot be locked, the process counts its own places, after one warning."""
        (tmp_path / "file").touch()
        file = tmp_path / "file" / "tokens.json"
        with caplog.at_level(logging.WARNING, "llmproviders"):
            for _ in range(2):
                with Slot(credential, 1, within(), file=file) as waited:
                    assert waited == 0.0
        assert [record.levelname for record in caplog.records] == ["WARNING"]


class TestProviders:
    @pytest.mark.parametrize("provider", ["gigachat", "openai"])
    def test_waits_instead_of_429(self, provider: str) -> None:
        """Of threads that share a key, one asks at a time, and the others' waits are told."""
        with Sandbox(reply="one two three", piece_delay_s=0.005) as sandbox:
            kind = {"gigachat": GigaChat, "openai": OpenAICompatible}[provider]
            client = kind(**sandbox.provider_arguments(provider), max_concurrency=1)
            waits: list[float] = []

            def ask() -> None:
                waits.append(client.complete("Hi").attempts[0].waited)

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
            assert len(waits) == 4
            assert sum(waited > 0 for waited in waits) == 3
            chats = [request for request in sandbox.requests if request.kind == "chat"]
            assert [request.status for request in chats] == [200] * 4
            client.close()

    def test_with_other_processes(self, file: Path) -> None:
        """Where a file keeps the token, a client waits for the places of other processes, too."""
        other = Occupant(digest("some-token"), file)
        client = GigaChat(access_token="some-token", token_cache=file)
        try:
            with pytest.raises(DeadlineExceeded):
                client.slot(within(0.05)).__enter__()
            other.end()
        finally:
            other.kill()
        with client.slot(within()) as waited:
            assert waited == 0.0

    def test_every_way_a_stream_ends(self, sandbox: Sandbox) -> None:
        """Read to its end, closed, dropped or failed: a stream gives its place back."""
        with GigaChat(**sandbox.provider_arguments("gigachat")) as client:
            list(client.stream("Hi"))
            closed = client.stream("Hi")
            next(closed)
            closed.close()
            dropped = client.stream("Hi")
            next(dropped)
            del dropped
            sandbox.fail("gigachat", cut_after=1)
            with pytest.raises(LLMError):
                list(client.stream("Hi"))
            sandbox.fail("gigachat", status=500)
            with pytest.raises(LLMError):
                list(client.stream("Hi"))
            assert client.complete("Hi").attempts[0].waited == 0.0

    def test_deadline(self, sandbox: Sandbox) -> None:
        """A wait for a place counts against the deadline of the call."""
        with GigaChat(**sandbox.provider_arguments("gigachat")) as client:
            holding = client.stream("Hi")
            next(holding)
            errors: list[LLMError] = []

            def ask() -> None:
                with pytest.raises(DeadlineExceeded) as caught:
                    sandbox.client(client, deadline=0.1).complete("Hi")
                errors.append(caught.value)

            thread = threading.Thread(target=ask)
            thread.start()
            thread.join(PATIENCE_S)
            holding.close()
            assert len(errors) == 1
            assert sandbox.count("gigachat", "chat") == 1

    def test_default_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An individual's key has one place, a business's ten, any other server's no limit."""
        assert GigaChat().max_concurrency == 1
        assert GigaChat(scope="GIGACHAT_API_B2B").max_concurrency == 10
        assert GigaChat(max_concurrency=3).max_concurrency == 3
        assert OpenAICompatible().max_concurrency is None
        monkeypatch.setenv("GIGACHAT_SCOPE", "GIGACHAT_API_CORP")
        assert GigaChat().max_concurrency == 10
