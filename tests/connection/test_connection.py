"""A connection's edges: old peers, broken framing behind a full room, clocks that step back."""

from __future__ import annotations

import pytest

from peergram.config import Config
from peergram.connection import handshake, handshake_server
from peergram.connection.connection import Ended
from peergram.connection.received import AcksOwed
from peergram.errors import EndReason
from tests.connection.pair import Pair

RELIABLE_NO_NAGLE = 9


@pytest.mark.parametrize("version", [10, 11])
def test_a_peer_that_knows_no_lanes_gets_everything_on_the_first(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after the handshake, so that the order of a channel is kept as well."""
    monkeypatch.setattr(handshake, "PROTOCOL_VERSION", version)
    monkeypatch.setattr(handshake_server, "PROTOCOL_VERSION", version)
    pair = Pair(start=False)
    pair.client.send_message(b"held", RELIABLE_NO_NAGLE, 3, pair.now_us)
    pair.run_until(lambda: bool(pair.delivered[False]))
    server = pair.end(False)
    assert server.established is not None
    assert server.established.protocol_version == version
    pair.client.send_message(b"later", RELIABLE_NO_NAGLE, 3, pair.now_us)
    pair.run_until(lambda: len(pair.delivered[False]) == 2)
    assert [(lane, payload) for lane, _, _, payload in pair.delivered[False]] == [
        (3 if version >= 11 else 0, b"held"),
        (3 if version >= 11 else 0, b"later"),
    ]


def test_framing_that_is_found_broken_when_the_application_reads_leaves_nothing_waiting() -> None:
    """A message that waits behind it would wait for ever, and hold up the peer's next connection."""
    pair = Pair(server_config=Config(recv_buffer_messages=2))
    pair.auto_release = False
    for _ in range(3):
        pair.client.send_message(b"good", RELIABLE_NO_NAGLE, 0, pair.now_us)
    pair.run(200_000)
    pair.client.send_message(b"good", RELIABLE_NO_NAGLE, 0, pair.now_us)
    lane = pair.client.flow.lanes.lane(0) if pair.client.flow is not None else None
    assert lane is not None
    assert lane.reliable
    number, deadline_us, _ = lane.reliable[-1]
    lane.reliable[-1] = (number, deadline_us, b"\x80\x80\x80\x80\x80")
    pair.run(500_000)
    server = pair.end(False)
    assert server.flow is not None
    assert server.flow.blocked_lanes == [0]
    pair.read(False, 2, pair.delivered[False])
    pair.run(100_000)
    assert [event.end.reason for event in pair.events[False] if isinstance(event, Ended)] == [EndReason.MISC_INTERNAL_ERROR]
    assert not server.flow.blocked_lanes
    assert server.flow.room.stream_bytes == 0


def test_a_clock_that_steps_back_makes_an_ack_without_delay() -> None:
    acks = AcksOwed(1)
    acks.add(2, 1_000_000)
    assert acks.report(999_000).delay_us == 0
