"""Ten thousand messages both ways at once over a poor line, and unreliable ones that may be lost but never damaged.

The line is the reference's own fault injection: what it sends and what it receives is lost, late, out of order or doubled.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import pytest

from peergram import Config

from .conftest import ReferenceFactory
from .mix import Mix, Verifier, message_sizes
from .ours import ROLES, Duet, Role, connected, until

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("role", ROLES)]

RATE = 20_000_000
POOR_LINE = {"send_rate_bytes": RATE, "loss_send_percent": 5.0, "loss_recv_percent": 5.0, "lag_send_ms": 50, "lag_recv_ms": 50}
FAST_LINE = {"send_rate_bytes": RATE, "send_buffer_bytes": 16_000_000}
UNRULY_LINE = {
    "send_rate_bytes": 4_000_000,
    "loss_send_percent": 3.0,
    "loss_recv_percent": 3.0,
    "reorder_send_percent": 5.0,
    "reorder_recv_percent": 5.0,
    "reorder_ms": 4,
    "duplicate_send_percent": 5.0,
    "duplicate_recv_percent": 5.0,
    "duplicate_max_ms": 10,
}


def unreliable_mix(seed: int) -> Mix:
    return Mix(seed, small=1_500, medium=150, large=0, medium_bytes_max=15_000)


@pytest.mark.parametrize("rate", ["fixed", "auto"])
def test_ten_thousand_reliable_messages_each_way_survive_loss_and_lag(
    reference: ReferenceFactory, free_port: int, role: Role, rate: Literal["fixed", "auto"]
) -> None:
    config = Config(rate=rate, send_rate_bytes=RATE)
    with connected(reference, free_port, role, config, settings=POOR_LINE) as duet:
        exchange = duet.exchange(Mix(seed=1), Mix(seed=2), timeout_s=90)
        assert exchange.is_complete, (exchange, duet.failures)
        print(f"{rate}, {role}: {exchange.there['elapsed_s']:.1f} s to the reference, {exchange.here_s:.1f} s from it")


def test_a_reader_who_pauses_while_the_reference_goes_on_sending_loses_nothing(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    """Nothing finds room then, so that the newest packet acknowledged falls behind by more than 16 bits of an ack can tell."""
    mix = Mix(seed=7, small=500, medium=200, large=40)
    with connected(reference, free_port, role, settings=FAST_LINE) as duet:
        duet.reference.request("source", mix=asdict(mix))
        until(lambda: packets_behind(duet) > 70_000, lambda: f"only {packets_behind(duet)} packets behind", timeout_s=60)
        verifier = Verifier(mix, is_reliable=True)
        for message in duet.take_here(len(message_sizes(mix)), timeout_s=60):
            verifier.add(message.payload)
        assert verifier.verdict.is_complete


def packets_behind(duet: Duet) -> int:
    """How many packets came after the newest that we acknowledge."""
    [link] = duet.net._endpoint._links
    flow = link.connection.flow
    assert flow is not None
    return flow.replay.highest - flow.acks.top


def test_reliable_messages_survive_reordering_and_duplicates(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role, settings=UNRULY_LINE) as duet:
        exchange = duet.exchange(Mix(seed=3, small=890, medium=100, large=5), Mix(seed=4, small=890, medium=100, large=5))
        assert exchange.is_complete, (exchange, duet.failures)


def test_unreliable_messages_are_whole_or_lost_over_an_unruly_line(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    with connected(reference, free_port, role, settings=UNRULY_LINE) as duet:
        exchange = duet.exchange(unreliable_mix(seed=5), unreliable_mix(seed=6), is_reliable=False)
        assert exchange.here.faults == exchange.there["faults"] == []
        # Nearly all small ones, and every other large one: 13 packets of which each arrives with 97 %.
        for received in (exchange.here.received, exchange.there["received"]):
            assert 1_300 < received < 1_650
