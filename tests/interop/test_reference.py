"""The reference against itself: shows that the harness tells the truth before peergram is tested with it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from .child import Answer, ChildError
from .conftest import ReferenceFactory
from .gns import NO_NAGLE, RELIABLE, State
from .gns_process import ReferenceProcess
from .mix import Mix

pytestmark = pytest.mark.interop

MIB = 1 << 20
POOR_LINE = {"loss_send_percent": 5.0, "lag_send_ms": 50, "send_rate_bytes": 20_000_000}
SHORT_MIX = asdict(Mix(seed=11, small=445, medium=50, large=5))


def connected_pair(start: ReferenceFactory, port: int, **settings: object) -> tuple[ReferenceProcess, ReferenceProcess]:
    server, client = start(identity="str:server", **settings), start(identity="str:client", **settings)
    server.request("listen", port=port)
    client.request("connect", port=port)
    client.wait("connected")
    server.wait("connected")
    return server, client


def arrived(process: ReferenceProcess, count: int) -> list[list[object]]:
    messages: list[list[object]] = []
    for _ in range(2_000):
        messages += process.request("receive")["messages"]
        if len(messages) >= count:
            return messages
    raise AssertionError(f"only {len(messages)} of {count} messages came")


def test_both_sides_know_each_other_by_identity(reference: ReferenceFactory, free_port: int) -> None:
    server, client = connected_pair(reference, free_port)
    assert server.request("info")["info"]["identity"] == "str:client"
    info = client.request("info")["info"]
    assert (info["identity"], info["address"], info["state"]) == ("str:server", f"127.0.0.1:{free_port}", State.CONNECTED)
    status = client.request("status")
    assert (status["state"], status["send_rate_bytes_per_s"]) == (State.CONNECTED, 256 * 1024)


def test_a_message_arrives_with_its_number_its_lane_and_the_reliable_flag(reference: ReferenceFactory, free_port: int) -> None:
    server, client = connected_pair(reference, free_port)
    client.request("lanes", priorities=[0, 0, 0], weights=[1, 1, 1])
    assert client.request("send", data=b"one\0two".hex(), flags=RELIABLE | NO_NAGLE) == {"result": 1, "number": 1}
    assert client.request("send", data="", flags=RELIABLE | NO_NAGLE, lane=2) == {"result": 1, "number": 1}
    assert sorted(arrived(server, 2)) == [[1, RELIABLE, 0, b"one\0two".hex()], [1, RELIABLE, 2, ""]]


def test_an_echo_comes_back_with_the_same_flags(reference: ReferenceFactory, free_port: int) -> None:
    server, client = connected_pair(reference, free_port)
    server.request("echo")
    for flags in (RELIABLE | NO_NAGLE, NO_NAGLE):
        client.request("send", data="abcd", flags=flags)
        assert arrived(client, 1)[0][1:] == [flags & RELIABLE, 0, "abcd"]


def test_a_close_reaches_the_other_side_with_reason_and_text(reference: ReferenceFactory, free_port: int) -> None:
    server, client = connected_pair(reference, free_port)
    client.request("close", reason=1042, debug="enough")
    info = server.wait("closed")["info"]
    assert (info["state"], info["end_reason"], info["end_debug"]) == (State.CLOSED_BY_PEER, 1042, "enough")
    assert [event["new"] for event in server.request("events")["events"]] == [1, 3, 4]


def test_encryption_is_off_only_when_both_sides_ask(reference: ReferenceFactory, free_port: int) -> None:
    _, client = connected_pair(reference, free_port, unencrypted=2)
    assert client.request("info")["info"]["flags"] & 2


def test_a_peer_that_is_killed_is_noticed(reference: ReferenceFactory, free_port: int) -> None:
    server, client = connected_pair(reference, free_port, timeout_connected_ms=500)
    server.kill()
    client.request("send", data="00", flags=RELIABLE)
    info = client.wait("closed")["info"]
    assert info["state"] == State.PROBLEM_DETECTED_LOCALLY
    with pytest.raises(ChildError, match="has ended"):
        server.request("status")


def test_a_wish_that_cannot_be_met_is_an_error_with_a_sentence(reference: ReferenceFactory) -> None:
    with pytest.raises(ChildError, match="no connection yet"):
        reference().request("status")
    with pytest.raises(ChildError, match="does not read the identity 'nonsense'"):
        reference(identity="nonsense")


def test_a_reliable_mix_survives_loss_and_lag_both_ways_at_once(reference: ReferenceFactory, free_port: int) -> None:
    pair = connected_pair(reference, free_port, **POOR_LINE)
    for process in pair:
        process.request("sink", mix=SHORT_MIX)
    for process in pair:
        process.request("source", mix=SHORT_MIX)
    for process in pair:
        report: Answer = process.wait("done", timeout_s=60)["sink"]
        assert report["is_complete"], report


def test_an_unreliable_mix_arrives_in_part_and_unharmed(reference: ReferenceFactory, free_port: int) -> None:
    server, client = connected_pair(reference, free_port, **POOR_LINE, send_buffer_bytes=8 * MIB)
    server.request("sink", mix=SHORT_MIX, is_reliable=False)
    client.request("source", mix=SHORT_MIX, is_reliable=False)
    report = server.wait("done", timeout_s=60)["sink"]
    assert report["fault_count"] == 0, report["faults"]
    assert 200 < report["received"] < 500
