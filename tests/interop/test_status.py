"""What both sides know of the line: ping, quality, rates; keepalive; and packets larger than the reference's own."""

from __future__ import annotations

import os
import re
import time

import pytest

from peergram import Config, SendFlags
from peergram.events import ConnectionState

from .conftest import ReferenceFactory
from .gns import State
from .mix import message
from .ours import ROLES, Duet, Role, connected

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("role", ROLES)]

SLOW_VARIABLE = "PEERGRAM_SLOW_TESTS"
slow = pytest.mark.skipif(not os.environ.get(SLOW_VARIABLE), reason=f"takes half a minute; set {SLOW_VARIABLE}=1")

LOSSY_LINE = {"loss_send_percent": 10.0, "loss_recv_percent": 10.0, "lag_send_ms": 20, "lag_recv_ms": 20}
INTERVAL_S = 5.0
"""Over which both sides measure quality."""
TICK_S = 0.004
REFERENCE_RATE = 262_144
"""What the reference sends at whatever happens, in bytes per second."""


def chat(duet: Duet, seconds: float) -> None:
    """An unreliable and now and then a reliable message each way, 250 times a second or what the machine can do."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        duet.send(bytes(100), SendFlags.UNRELIABLE_NO_NAGLE)
        duet.reference.request("send", data="00" * 100, flags=1)
        duet.step()
        time.sleep(TICK_S)
    duet.received.clear()


def test_both_sides_measure_ping_and_quality_of_the_same_line(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role, settings=LOSSY_LINE) as duet:
        chat(duet, INTERVAL_S + 0.7)
        ours, theirs = duet.status, duet.reference.request("status")
        assert ours.state == ConnectionState.CONNECTED
        assert theirs["state"] == State.CONNECTED
        for ping_ms in (ours.ping_ms, theirs["ping_ms"]):
            assert ping_ms is not None
            assert 40 <= ping_ms <= 80
        for quality in (ours.quality_local, theirs["quality_local"]):
            assert quality is not None
            assert 0.80 <= quality <= 0.97
        assert (ours.queue_time_us or 0) < 100_000
        assert ours.in_packets_per_s > 20
        assert theirs["in_packets_per_s"] > 20
        assert ours.out_packets_per_s == pytest.approx(theirs["in_packets_per_s"], rel=0.5)


def test_a_trickle_of_unreliable_messages_says_nothing_about_what_the_line_can_carry(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    with connected(reference, free_port, role, settings={"lag_send_ms": 20, "lag_recv_ms": 20}) as duet:
        chat(duet, 2)
        assert duet.status.send_rate_bytes_per_s > REFERENCE_RATE


def test_a_full_packet_of_ours_is_larger_than_any_of_the_references_and_is_taken(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    sent = [message(11, index, 100_000) for index in range(40)]
    total = sum(len(data) for data in sent)
    config = Config(rate="fixed", send_rate_bytes=2_500_000)
    with connected(reference, free_port, role, config) as duet:
        received = []
        for data in sent:
            duet.send_all([data], SendFlags.RELIABLE)
            received += [taken[3] for taken in duet.take_there(1)]
        duet.settle()
        assert received == sent
        assert duet.state == ConnectionState.CONNECTED
        text = duet.reference.request("describe")["text"]
        totals = re.search(r"Recv:\s+([\d,]+) pkts\s+([\d,]+) bytes", text[text.index("Totals") :])
        dropped = re.search(r"Dropped\s*:\s+([\d,]+) pkts", text)
        assert totals
        assert dropped
        packets, size = (int(number.replace(",", "")) for number in totals.groups())
        # A packet sent twice would show here: all bytes beside the messages are headers.
        assert size < total * 1.03 + 5_000
        assert packets < total / 1_200
        assert int(dropped[1].replace(",", "")) == 0


@slow
def test_an_idle_connection_outlives_the_time_out(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role) as duet:
        duet.settle()
        end_s = time.monotonic() + 25
        while time.monotonic() < end_s:
            duet.step()
            time.sleep(0.05)
        assert duet.state == ConnectionState.CONNECTED
        assert duet.reference.request("info")["info"]["state"] == State.CONNECTED
        duet.send_all([b"still here"])
        duet.expect_there([b"still here"])
        duet.their_send(b"so am I")
        duet.expect_here([b"so am I"])
        assert duet.failures == []


@slow
def test_both_sides_report_quality_to_each_other(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role, settings=LOSSY_LINE) as duet:
        chat(duet, 27)
        ours, theirs = duet.status, duet.reference.request("status")
        for quality in (ours.quality_remote, theirs["quality_remote"]):
            assert quality is not None
            assert 0.80 <= quality <= 0.97
