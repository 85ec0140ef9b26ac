"""Toward a reference peer: when packets ask for an ack, and how many may be in flight. He acknowledges unreliable data only if
asked."""

from __future__ import annotations

from peergram.config import Config
from peergram.errors import Result
from peergram.events import SendFlags
from peergram.wire.data_packet import decode_data_header
from peergram.wire.link_stats import ACK_REQUEST, decode_stats
from tests.connection.pair import Pair

WAY_US = 30_000
STEP_US = 5_000
SECONDS = 4


def pair_with_reference(config: Config | None = None) -> Pair:
    pair = Pair(client_config=config, network=lambda _from_client, _packet, _now_us: [WAY_US])
    pair.run(500_000)
    assert pair.client.flow is not None
    pair.client.flow.own_peer = False
    pair.sent_packets.clear()
    return pair


def asks(pair: Pair) -> list[int]:
    """When data packets of the client asked for an ack."""
    times = []
    for at_us, from_client, packet in pair.sent_packets:
        if from_client and packet[0] & 0x80:
            blob = decode_data_header(packet).stats_blob
            if blob is not None and decode_stats(blob).flags & ACK_REQUEST:
                times.append(at_us)
    return times


def send_for_seconds(pair: Pair, flags: int) -> None:
    for _ in range(SECONDS * 1_000_000 // STEP_US):
        assert pair.client.send_message(bytes(100), flags, 0, pair.now_us) == Result.OK
        pair.run(STEP_US)


def test_a_flow_of_unreliable_messages_asks_once_per_round_trip() -> None:
    pair = pair_with_reference()
    send_for_seconds(pair, SendFlags.UNRELIABLE | SendFlags.NO_NAGLE)
    spaces = [later - earlier for earlier, later in zip(asks(pair), asks(pair)[1:], strict=False)]
    assert len(spaces) >= 0.8 * SECONDS * 1_000_000 / (2 * WAY_US + STEP_US)
    assert min(spaces) >= 0.9 * 2 * WAY_US


def test_reliable_messages_need_no_question() -> None:
    pair = pair_with_reference()
    send_for_seconds(pair, SendFlags.RELIABLE | SendFlags.NO_NAGLE)
    assert len(asks(pair)) <= 1, "but with a report of statistics"


def test_a_peer_that_does_not_answer_has_fewer_than_eight_thousand_packets_in_flight() -> None:
    pair = pair_with_reference(Config(rate="fixed", send_rate_bytes=50_000_000, send_buffer_bytes=1 << 24))
    pair.network = lambda _from_client, _packet, _now_us: []
    flow = pair.client.flow
    assert flow is not None
    for _ in range(9_000):
        pair.client.send_message(bytes(1_200), SendFlags.UNRELIABLE | SendFlags.NO_NAGLE, 0, pair.now_us)
    most = 0
    for _ in range(500):
        pair.run(1_000)
        most = max(most, len(flow.in_flight))
    assert most == 7_999
