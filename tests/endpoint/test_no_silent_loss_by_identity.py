"""No reliable message is lost without a word between peers who find each other by identity: see `books.py` for what that means.

The sibling of `test_no_silent_loss.py` over the simulated internet: both are behind NATs, signaling loses and doubles and delays,
and the hosts, the relay and the signaling are cut off, die, come back and move at any moment.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from peergram.config import Config
from peergram.sim.hub import SignalModel
from peergram.sim.link import LinkModel
from peergram.sim.nat import NatKind
from tests.compiled import REPLACES
from tests.endpoint.books import Books
from tests.endpoint.programs import CHANNELS, FOUND, PLANTED, SIDES, TwoPrograms, find
from tests.endpoint.sim_parties import Internet, Place
from tests.endpoint.world import SECOND_US

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
EXAMPLES = 150
KINDS = (*2 * (NatKind.NONE, NatKind.FULL_CONE, NatKind.PORT_RESTRICTED, NatKind.SYMMETRIC), NatKind.UDP_BLOCKED)
PLACES = st.builds(
    Place,
    nat=st.sampled_from(KINDS),
    link=st.builds(
        LinkModel, delay_us=st.sampled_from((1_000, 3_000, 40_000)), loss=st.sampled_from((0.0, 0.0, 0.05)),
        duplicate=st.sampled_from((0.0, 0.1)),
    ),
)  # fmt: skip
SIGNALS = st.builds(
    SignalModel, delay_us=st.sampled_from((1_000, 100_000)), jitter_us=st.sampled_from((0, 300_000)),
    loss=st.sampled_from((0.0, 0.3)), duplicate=st.sampled_from((0.0, 0.3)), replay=st.sampled_from((0.0, 0.3)),
)  # fmt: skip


class TwoHostsByIdentity(TwoPrograms):
    """Whatever two programs and the internet between them do."""

    calm_us = 90 * SECOND_US

    @initialize(
        seed=st.integers(0, 1_000),
        places=st.tuples(PLACES, PLACES),
        signals=SIGNALS,
        relay=st.sampled_from(("", "udp", "udp", "tcp", "tcp")),
        linger_us=st.sampled_from((0, 500_000)),
        resume_window_us=st.sampled_from((0, 15 * SECOND_US, 60 * SECOND_US)),
        recv_buffer_bytes=st.sampled_from((20_000, 1_048_576)),
        all_have_receipts=st.booleans(),
    )
    def open(
        self,
        seed: int,
        places: tuple[Place, Place],
        signals: SignalModel,
        relay: str,
        linger_us: int,
        resume_window_us: int,
        recv_buffer_bytes: int,
        all_have_receipts: bool,
    ) -> None:
        config = Config(
            linger_us=linger_us,
            resume_window_us=resume_window_us,
            recv_buffer_bytes=recv_buffer_bytes,
            recv_message_bytes_max=20_000,
        )
        self.internet = Internet(seed, places, signals, relay, config)
        self.internet.world.channels.update(CHANNELS)
        self.hosts = [*self.internet.parties]
        self.books = Books(self.hosts, all_have_receipts=all_have_receipts)

    def run_for(self, duration_us: int) -> None:
        self.internet.world.run_for(duration_us)
        assert not self.internet.world.violations, str(self.internet.world.violations[0])

    def cut(self) -> None:
        self.internet.topology.cut(self.internet.parties[0].interface)

    def calm(self) -> None:
        self.internet.calm()

    @rule(side=SIDES)
    def cut_or_heal(self, side: int) -> None:
        interface = self.internet.parties[side].interface
        if interface.up.up:
            self.internet.topology.cut(interface)
        else:
            self.internet.topology.restore(interface)

    @rule()
    def cut_or_heal_relay(self) -> None:
        server = self.internet.servers[-1]
        if server.interface.up.up:
            self.internet.topology.cut(server.interface)
        else:
            self.internet.topology.restore(server.interface)

    @rule()
    def crash_or_start_relay(self) -> None:
        server = self.internet.servers[-1]
        if server.is_alive:
            server.crash()
        else:
            server.start()

    @rule()
    def cut_or_heal_signaling(self) -> None:
        self.internet.hub.up ^= True

    @rule(side=SIDES, gap_us=st.sampled_from((0, 500_000)), then_us=st.sampled_from((0, 10_000, SECOND_US)))
    def move(self, side: int, gap_us: int, then_us: int) -> None:
        self.run_for(then_us)
        if self.internet.parties[side].interface.place is not None:
            self.internet.move(self.internet.parties[side], gap_us)

    @rule(side=SIDES, new_address=st.booleans())
    def restart_router(self, side: int, new_address: bool) -> None:
        self.internet.topology.rebind(self.internet.parties[side].home, new_address=new_address)

    @rule(side=SIDES, for_us=st.sampled_from((100_000, 5 * SECOND_US, 20 * SECOND_US)))
    def stand_still(self, side: int, for_us: int) -> None:
        """The process is stopped, and goes on."""
        if self.hosts[side].running is not None:
            self.internet.parties[side].host.pause(for_us)
            self.run_for(for_us + 1)


TestTwoHostsByIdentity = TwoHostsByIdentity.TestCase
TestTwoHostsByIdentity.settings = settings(max_examples=10_000 if SOAK else EXAMPLES, stateful_step_count=40 if SOAK else 25)


@REPLACES
@pytest.mark.parametrize("name", PLANTED)
def test_random_examples_find_books_that_do_not_balance(name: str) -> None:
    with PLANTED[name](), pytest.raises(AssertionError, match=FOUND):
        find(TwoHostsByIdentity, EXAMPLES)
