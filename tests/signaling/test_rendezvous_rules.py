"""Who becomes the server when both call, and what a restarted side says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.signaling.rendezvous_rules import RESTARTED_TEXT, close_of_old_run, symmetric_outcome
from peergram.wire.signals import Signal, SignalClosed, decode_signal, encode_signal
from tests.vectors_data import load

RACES = load("03-signals")["symmetric_races"]
IDS = st.integers(1, 0xFFFF_FFFF)
OPPOSITE = {"client": "server", "server": "client"}


def test_the_vectors_are_all_there() -> None:
    assert len(RACES) == 10
    assert {row["client"] for row in RACES} == {"str:alice", "str:bob"}


@pytest.mark.parametrize("row", RACES)
def test_recorded_races_ended_as_the_rule_says(row: dict[str, Any]) -> None:
    ids = {"str:alice": row["alice_connection_id"], "str:bob": row["bob_connection_id"]}
    client, server = ids[row["client"]], ids[row["server"]]
    assert symmetric_outcome(client, server, b"", b"") == "client"
    assert symmetric_outcome(server, client, b"", b"") == "server"


@pytest.mark.parametrize(("own", "peer", "outcome"), [(2, 4, "client"), (4, 2, "server"), (2, 5, "server"), (5, 2, "client")])
def test_the_smaller_id_is_the_client_unless_the_lowest_bits_differ(own: int, peer: int, outcome: str) -> None:
    assert symmetric_outcome(own, peer, b"z", b"a") == outcome


@pytest.mark.parametrize(
    ("own", "peer", "outcome"),
    [
        (b"a", b"b", "client"),
        (b"b", b"a", "server"),
        (b"a\x80", b"a\x7f", "server"),
        (b"same", b"same", "client"),
        (b"same", b"same and more", "client"),
        (b"same and more", b"same", "client"),
    ],
)
def test_equal_ids_are_told_apart_by_the_certificates(own: bytes, peer: bytes, outcome: str) -> None:
    assert symmetric_outcome(77, 77, own, peer) == outcome


@given(IDS, IDS, st.binary(min_size=40, max_size=40), st.binary(min_size=40, max_size=40))
def test_the_two_sides_come_to_opposite_results(own_id: int, peer_id: int, own_cert: bytes, peer_cert: bytes) -> None:
    if (own_id, own_cert) != (peer_id, peer_cert):
        outcome = symmetric_outcome(own_id, peer_id, own_cert, peer_cert)
        assert symmetric_outcome(peer_id, own_id, peer_cert, own_cert) == OPPOSITE[outcome]


def test_a_restarted_side_closes_its_old_ids_without_naming_those_of_the_peer() -> None:
    signal = close_of_old_run(5, b"str:me", b"str:you")
    assert signal == Signal(
        from_connection_id=5,
        from_identity=b"str:me",
        to_identity=b"str:you",
        connection_closed=SignalClosed(1000, RESTARTED_TEXT),
    )
    assert decode_signal(encode_signal(signal)) == signal
