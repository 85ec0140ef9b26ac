"""What two programs may do to each other, for state machines over any world that has two hosts (`Party`).

They send, close, end, are killed and start over with the same key or another, and read slowly or not at all. A world adds how its
hosts come about and what its network does; `books.py` says what must hold after every step and at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from peergram.connection.lanes import Lanes, Segment, SendLane
from peergram.endpoint.remotes import Remotes
from tests.endpoint.books import Books, Party
from tests.endpoint.world import AUTO_RESTART, NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE

CHANNELS = range(3)
SIDES = st.sampled_from((0, 1))
DURATIONS_US = (0, 1_000, 10_000, 30_000, 100_000, 700_000, 3 * SECOND_US, 12 * SECOND_US, 30 * SECOND_US)
INTERRUPTIONS_US = (0, 3_000, 6_000, *range(10_000, 40_000, 2_000), 60_000, 100_000, 300_000)
"""Most of them about when the first acknowledgements of a burst arrive: drawn evenly, which integers of a wide range are not."""
MEET_US_MAX = 10 * SECOND_US
_MEET_STEP_US = 50_000
_SETTLE_US = 2 * SECOND_US


class TwoPrograms(RuleBasedStateMachine):
    """Whatever two programs do; `open` of the world's own machine makes `hosts` and `books`."""

    hosts: list[Party]
    books: Books
    calm_us: ClassVar[int]
    """In a good network, nothing is open any more after this time."""

    # --- what a world adds ---

    def run_for(self, duration_us: int) -> None:
        """Let time pass."""
        raise NotImplementedError

    def cut(self) -> None:
        """Nothing passes between the hosts from now on."""
        raise NotImplementedError

    def calm(self) -> None:
        """From now on everything works, and everybody can be reached who ever could."""
        raise NotImplementedError

    # --- what programs do ---

    def _pair(self, side: int) -> tuple[Party, Party]:
        return self.hosts[side], self.hosts[1 - side]

    @rule(
        side=SIDES,
        count=st.integers(1, 8),
        size=st.sampled_from((8, 100, 2_000, 15_000)),
        channel=st.sampled_from(CHANNELS),
        flags=st.sampled_from((RELIABLE, RELIABLE | NO_NAGLE, RELIABLE | AUTO_RESTART)),
        by_name=st.booleans(),
        receipt=st.booleans(),
    )
    def send(self, side: int, count: int, size: int, channel: int, flags: int, by_name: bool, receipt: bool) -> None:
        sender, receiver = self._pair(side)
        for _ in range(count if sender.running is not None else 0):
            self.books.send(sender, receiver, size, flags, channel, by_name=by_name, receipt=receipt)

    @rule(side=SIDES)
    def meet(self, side: int) -> None:
        """A session that works: without one there is nothing to interrupt."""
        sender = self.hosts[side]
        for host in self.hosts:
            if host.running is None:
                self.books.start(host, new_key=False)
        self.calm()
        before = len(self.books.runs[sender].sent)
        self.send(side=side, count=1, size=8, channel=0, flags=RELIABLE | AUTO_RESTART, by_name=False, receipt=True)
        sent = self.books.runs[sender].sent[before:]
        waited_us = 0
        while sent and sent[0].receipt is not None and sent[0].receipt.state == "pending" and waited_us < MEET_US_MAX:
            self.run_for(_MEET_STEP_US)
            waited_us += _MEET_STEP_US

    @rule(
        side=SIDES,
        count=st.sampled_from((2, 12, 30)),
        size=st.sampled_from((100, 2_000, 15_000)),
        duration_us=st.sampled_from(INTERRUPTIONS_US),
        ending=st.sampled_from(("cut", "sender closes", "receiver closes", "receiver is killed", "receiver ends")),
        is_answered=st.booleans(),
        is_met=st.booleans(),
    )
    def be_interrupted(
        self, side: int, count: int, size: int, duration_us: int, ending: str, is_answered: bool, is_met: bool
    ) -> None:
        """The moment that counts: some of it is acknowledged, some under way, some not sent yet."""
        if is_met:
            self.meet(side=side)
        self.send(side=side, count=count, size=size, channel=0, flags=RELIABLE, by_name=False, receipt=True)
        self.send(side=side, count=count, size=100, channel=1, flags=RELIABLE, by_name=False, receipt=False)
        if is_answered:
            self.send(side=1 - side, count=count, size=size, channel=0, flags=RELIABLE, by_name=False, receipt=True)
        self.run_for(duration_us)
        if ending == "cut":
            self.cut()
        elif ending.endswith("closes"):
            self.close_session(side=side if ending == "sender closes" else 1 - side, by_name=False)
        else:
            self.end(side=1 - side, politely=ending == "receiver ends")

    @rule(side=SIDES)
    def send_unreliably(self, side: int) -> None:
        sender, receiver = self._pair(side)
        if sender.running is not None:
            sender.send(receiver.dialed, b"who knows", UNRELIABLE)

    @rule(side=SIDES, by_name=st.booleans())
    def close_session(self, side: int, by_name: bool) -> None:
        closer, other = self._pair(side)
        name = other.identity if by_name else other.dialed
        if closer.running is not None and closer.info(name) is not None:
            self.books.note_discarded(closer)
            closer.close_session(name)

    @rule(side=SIDES, channel=st.sampled_from(CHANNELS), by_name=st.booleans())
    def close_channel(self, side: int, channel: int, by_name: bool) -> None:
        closer, other = self._pair(side)
        name = other.identity if by_name else other.dialed
        peer = closer.endpoint._peers.get(name) if closer.running is not None else None
        if peer is not None and channel in peer.session.channels._open:
            self.books.note_discarded(closer, channel if len(peer.session.channels._open) > 1 else None)
            closer.close_channel(name, channel)

    @rule(side=SIDES)
    def stop_or_go_on_reading(self, side: int) -> None:
        host = self.hosts[side]
        host.reads = not host.reads
        if host.running is not None:
            host.drain()

    @rule(side=SIDES, channel=st.sampled_from(CHANNELS))
    def read_one(self, side: int, channel: int) -> None:
        host = self.hosts[side]
        if host.running is not None:
            host.received += host.read(channel, 1)

    @rule(side=SIDES, politely=st.booleans())
    def end(self, side: int, politely: bool) -> None:
        host = self.hosts[side]
        if host.running is None:
            return
        self.books.note_discarded(host)
        if politely:
            host.close()
            self.books.check()
        host.kill()

    @rule(side=SIDES, new_key=st.booleans())
    def start(self, side: int, new_key: bool) -> None:
        if self.hosts[side].running is None:
            self.books.start(self.hosts[side], new_key=new_key)

    @rule(duration_us=st.sampled_from(DURATIONS_US))
    def wait(self, duration_us: int) -> None:
        self.run_for(duration_us)

    @precondition(lambda self: hasattr(self, "books"))
    @invariant()
    def the_books_balance(self) -> None:
        self.books.check()

    def teardown(self) -> None:
        if not hasattr(self, "books"):
            return
        self.calm()
        for host in self.hosts:
            host.reads = True
            if host.running is None:
                self.books.start(host, new_key=False)
            host.drain()
        waited_us = 0
        while waited_us < self.calm_us and (waited_us < _SETTLE_US or self.books.any_open):
            self.run_for(_SETTLE_US)
            waited_us += _SETTLE_US
        self.books.check_at_the_end()


# --- defects that the machines must find ---


@contextmanager
def _takes_all_for_confirmed() -> Iterator[None]:
    """The first bytes that arrive settle everything that was handed in."""
    original = SendLane.handle_acked

    def handle_acked(lane: SendLane, segment: Segment) -> None:
        original(lane, segment)
        lane.messages_unacked = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SendLane, "handle_acked", handle_acked)
        yield


@contextmanager
def _forgets_what_it_owed_when_it_closed() -> Iterator[None]:
    """Nothing is said of a session that its own side closed and that could not flush."""
    original = Remotes._report_linger

    def report_linger(remotes: Remotes, link: object, ended: object) -> None:
        tell = remotes._tell
        remotes._tell = lambda event: None  # type: ignore[method-assign]
        original(remotes, link, ended)  # type: ignore[arg-type]
        remotes._tell = tell  # type: ignore[method-assign]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Remotes, "_report_linger", report_linger)
        yield


@contextmanager
def _believes_that_a_closing_peer_took_everything() -> Iterator[None]:
    """A goodbye says how far the other side has come; here that is always the end."""
    with pytest.MonkeyPatch.context() as patch:
        original = Lanes.handle_taken
        patch.setattr(Lanes, "handle_taken", lambda lanes, index, position: original(lanes, index, 1 << 62))
        yield


PLANTED: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "takes all for confirmed": _takes_all_for_confirmed,
    "forgets what it owed when it closed": _forgets_what_it_owed_when_it_closed,
    "believes that a closing peer took everything": _believes_that_a_closing_peer_took_everything,
}


FOUND = r"lost|never there|reported|open"
"""How the books say that they do not balance."""


def find(machine: type[TwoPrograms], examples_max: int, *, begin: int = 0) -> None:
    """Random examples, as the daily run draws them: raises what they find. `begin` is where chance begins."""
    kept = settings(
        max_examples=examples_max,
        stateful_step_count=machine.TestCase.settings.stateful_step_count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(seed(begin)(machine), settings=kept)
