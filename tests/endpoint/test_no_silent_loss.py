"""No reliable message is lost without a word, whatever happens to its session: see `books.py` for what that means.

Two hosts dial each other, close, end, are killed and start again with the same key or another, are cut off from each other, and
read slowly or not at all.
"""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peergram.config import Config
from peergram.connection.lanes import Segment, SendLane
from tests.compiled import REPLACES
from tests.endpoint.books import Books
from tests.endpoint.world import AUTO_RESTART, NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, Host, World, rough

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
CHANNELS = range(3)
SIDES = st.sampled_from((0, 1))
DURATIONS_US = (0, 1_000, 10_000, 30_000, 100_000, 700_000, 3 * SECOND_US, 12 * SECOND_US, 30 * SECOND_US)


class TwoHosts(RuleBasedStateMachine):
    """Whatever two programs and the network between them do."""

    @initialize(
        seed=st.integers(0, 1_000),
        linger_us=st.sampled_from((0, 500_000)),
        recv_buffer_bytes=st.sampled_from((20_000, 1_048_576)),
        all_have_receipts=st.booleans(),
    )
    def open(self, seed: int, linger_us: int, recv_buffer_bytes: int, all_have_receipts: bool) -> None:
        self.rng = Random(seed)
        self.world = World(rough(self.rng), seed=seed)
        config = Config(linger_us=linger_us, recv_buffer_bytes=recv_buffer_bytes, recv_message_bytes_max=20_000)
        self.hosts = [self.world.add("alice", config), self.world.add("bob", config)]
        self.world.channels.update(dict.fromkeys(CHANNELS))
        self.books = Books(self.world, all_have_receipts=all_have_receipts)

    def _pair(self, side: int) -> tuple[Host, Host]:
        return self.hosts[side], self.hosts[1 - side]

    # --- what programs do ---

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

    @rule(
        side=SIDES,
        count=st.integers(2, 12),
        size=st.sampled_from((100, 2_000, 15_000)),
        duration_us=st.integers(0, 60_000),
        ending=st.sampled_from(("cut", "sender closes", "receiver closes", "receiver is killed", "receiver ends")),
        is_answered=st.booleans(),
    )
    def be_interrupted(self, side: int, count: int, size: int, duration_us: int, ending: str, is_answered: bool) -> None:
        """The moment that counts: some of it is acknowledged, some under way, some not sent yet."""
        self.send(side=side, count=count, size=size, channel=0, flags=RELIABLE, by_name=False, receipt=True)
        self.send(side=side, count=count, size=100, channel=1, flags=RELIABLE, by_name=False, receipt=False)
        if is_answered:
            self.send(side=1 - side, count=count, size=size, channel=0, flags=RELIABLE, by_name=False, receipt=True)
        self.world.run(duration_us)
        if ending == "cut":
            self.world.cut.add(frozenset(self.hosts))
        elif ending.endswith("closes"):
            self.close_session(side=side if ending == "sender closes" else 1 - side, by_name=False)
        else:
            self.end(side=1 - side, politely=ending == "receiver ends")

    @rule(side=SIDES)
    def send_unreliably(self, side: int) -> None:
        sender, receiver = self._pair(side)
        if sender.running is not None:
            sender.send(receiver, b"who knows", UNRELIABLE)

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

    # --- what the network does ---

    @rule(duration_us=st.sampled_from(DURATIONS_US))
    def wait(self, duration_us: int) -> None:
        self.world.run(duration_us)

    @rule(loss=st.sampled_from((0.0, 0.1, 0.5)), delay_us=st.sampled_from(((5_000, 5_000), (1_000, 80_000), (150_000, 160_000))))
    def change_network(self, loss: float, delay_us: tuple[int, int]) -> None:
        self.world.network = rough(self.rng, loss=loss, delay_us=delay_us, again=loss)

    @rule()
    def cut_or_heal(self) -> None:
        self.world.cut ^= {frozenset(self.hosts)}

    @precondition(lambda self: hasattr(self, "books"))
    @invariant()
    def the_books_balance(self) -> None:
        self.books.check()

    def teardown(self) -> None:
        if not hasattr(self, "books"):
            return
        self.world.cut.clear()
        self.world.network = rough(self.rng)
        for host in self.hosts:
            host.reads = True
            if host.running is None:
                self.books.start(host, new_key=False)
            host.drain()
        self.world.run(60 * SECOND_US)
        self.books.check_at_the_end()


TestTwoHosts = TwoHosts.TestCase
TestTwoHosts.settings = settings(max_examples=10_000 if SOAK else 150, stateful_step_count=40 if SOAK else 25)


@REPLACES
def test_books_that_do_not_balance_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver dies in the middle, and the sender takes too much for confirmed: the books must say so."""
    original = SendLane.handle_acked

    def take_all_for_confirmed(lane: SendLane, segment: Segment) -> None:
        original(lane, segment)
        lane.messages_unacked = None

    monkeypatch.setattr(SendLane, "handle_acked", take_all_for_confirmed)
    machine = TwoHosts()
    machine.open(seed=1, linger_us=0, recv_buffer_bytes=1_048_576, all_have_receipts=True)
    machine.send(side=0, count=1, size=8, channel=0, flags=RELIABLE, by_name=False, receipt=True)
    machine.wait(100_000)
    machine.send(side=0, count=8, size=15_000, channel=0, flags=RELIABLE, by_name=False, receipt=True)
    machine.wait(12_000)
    machine.end(side=1, politely=False)
    with pytest.raises(AssertionError, match="silently lost"):
        machine.teardown()
