"""No reliable message is lost without a word, whatever happens to its session: see `books.py` for what that means.

Two hosts dial each other by address; `programs.py` has what they do. Here packets are lost, doubled and late, and the two are cut
off from each other.
"""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from peergram.config import Config
from tests.compiled import REPLACES
from tests.endpoint.books import Books
from tests.endpoint.programs import CHANNELS, FOUND, PLANTED, TwoPrograms, find
from tests.endpoint.world import SECOND_US, World, rough

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
EXAMPLES = 150


class TwoHosts(TwoPrograms):
    """Whatever two programs and the network between them do."""

    calm_us = 60 * SECOND_US

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
        self.books = Books(self.hosts, all_have_receipts=all_have_receipts)

    def run_for(self, duration_us: int) -> None:
        self.world.run(duration_us)

    def cut(self) -> None:
        self.world.cut.add(frozenset(self.world.hosts))

    def calm(self) -> None:
        self.world.cut.clear()
        self.world.network = rough(self.rng)

    @rule(loss=st.sampled_from((0.0, 0.1, 0.5)), delay_us=st.sampled_from(((5_000, 5_000), (1_000, 80_000), (150_000, 160_000))))
    def change_network(self, loss: float, delay_us: tuple[int, int]) -> None:
        self.world.network = rough(self.rng, loss=loss, delay_us=delay_us, again=loss)

    @rule()
    def cut_or_heal(self) -> None:
        self.world.cut ^= {frozenset(self.world.hosts)}


TestTwoHosts = TwoHosts.TestCase
TestTwoHosts.settings = settings(max_examples=10_000 if SOAK else EXAMPLES, stateful_step_count=40 if SOAK else 25)


@REPLACES
@pytest.mark.parametrize("name", PLANTED)
def test_random_examples_find_books_that_do_not_balance(name: str) -> None:
    with PLANTED[name](), pytest.raises(AssertionError, match=FOUND):
        find(TwoHosts, EXAMPLES)
