"""Two references that talk by identity: shows that the peers of the P2P tests tell the truth before ours meets them.

They ignore loopback addresses, so they live on two hosts of a lab, see `tests.lab`; a third passes their signals on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab import open_lab

from .child import ROOT, ChildError
from .gns import GnsError, Setting, State, library_path
from .party import RELIABLE, PartyOptions, PartyProcess, connected

pytestmark = pytest.mark.interop

SIGNAL_PORT = 10_000
ALICE, BOB = "str:alice", "str:bob"
Start = Callable[..., PartyProcess]


@pytest.fixture(scope="module")
def lab() -> Iterator[Any]:
    try:
        library_path()
    except GnsError as error:
        pytest.skip(f"no reference to test against: {error}")
    with open_lab("alice@inet bob@inet signal@inet", "i") as running:
        command = [sys.executable, "-m", "tests.interop.line_signals", "{signal}", str(SIGNAL_PORT)]
        with running.popen("signal", command, cwd=ROOT, stdout=subprocess.PIPE) as server:
            assert server.stdout.readline() == b"listening\n"
            yield running
            server.kill()


@pytest.fixture
def start(lab: Any) -> Iterator[Start]:
    """Starts a reference on the host of its name: call it with the name and fields of `PartyOptions`."""
    with ExitStack() as stack:

        def begin(name: str, **options: Any) -> PartyProcess:
            told = PartyOptions(identity=f"str:{name}", signaling=f"{lab.addr('signal')}:{SIGNAL_PORT}", **options)
            peer = PartyProcess("tests.interop.gns_party", told, lambda words, **how: lab.popen(name, words, **how))
            stack.callback(peer.stop)
            return peer

        yield begin


def test_the_first_message_opens_a_session_and_the_answer_comes_back(start: Start) -> None:
    alice, bob = start("alice"), start("bob")
    began_us = alice.send(BOB, b"hello")
    sender, data, at_us = bob.take()
    assert (sender, data) == (ALICE, b"hello")
    answered_us = bob.send(ALICE, b"welcome")
    sender, data, answer_at_us = alice.take()
    assert (sender, data) == (BOB, b"welcome")
    print(f"\nfirst message {(at_us - began_us) / 1_000:.0f} ms, answer {(answer_at_us - answered_us) / 1_000:.1f} ms")
    assert at_us - began_us < 2_000_000
    (request,) = bob.events("request")
    assert request["identity"] == ALICE
    assert alice.events("request") == alice.events("failed") == []


def test_both_may_send_first(start: Start) -> None:
    alice, bob = start("alice"), start("bob")
    began_us = alice.send(BOB, b"from alice")
    bob.send(ALICE, b"from bob")
    arrivals = bob.take(), alice.take()
    assert [arrival[1] for arrival in arrivals] == [b"from alice", b"from bob"]
    print(f"\nboth at once: {(max(arrival[2] for arrival in arrivals) - began_us) / 1_000:.0f} ms")


def test_a_session_tells_state_route_address_and_ping(start: Start, lab: Any) -> None:
    alice, bob = start("alice"), start("bob")
    alice.send(BOB, b"hello")
    alice.until(lambda: connected(alice, bob), "a session", 5)
    standing = alice.standing(BOB)
    assert standing is not None
    assert (standing.state, standing.end_reason, standing.route) == (State.CONNECTED, 0, "direct")
    assert standing.address.rpartition(":")[0] == lab.addr("bob")
    assert standing.ping_ms is not None
    assert alice.standing("str:nobody") is None
    alice.until(lambda: alice.events("standing")[-1]["route"] == "direct", "an event when the route was found", 5)


def test_channels_are_told_apart_and_closed(start: Start) -> None:
    alice, bob = start("alice"), start("bob")
    for channel in (0, 7, -1, 2_147_483_647):
        alice.send(BOB, b"%d" % channel, channel=channel)
    for channel in (2_147_483_647, 7, -1, 0):
        assert bob.take(channel)[1] == b"%d" % channel
    assert bob.request("close_channel", identity=ALICE, channel=5)["did"] is False
    assert bob.request("close_channel", identity=ALICE, channel=7)["did"] is True
    assert bob.request("close_session", identity=ALICE)["did"] is True
    assert bob.standing(ALICE) is None


def test_who_is_not_let_in_is_told_after_the_timeout(start: Start) -> None:
    timeout = {str(int(Setting.TIMEOUT_INITIAL)): 1_000}
    alice, bob = start("alice", settings=timeout), start("bob", accepts=False)
    alice.send(BOB, b"hello")
    alice.until(lambda: bool(alice.events("failed")), "a failure", 5)
    (failure,) = alice.events("failed")
    assert (failure["identity"], failure["end_reason"]) == (BOB, 5_003)
    assert bob.events("request")
    assert bob.request("receive", channel=0)["messages"] == []
    with pytest.raises(ChildError, match="result 35"):
        alice.send(BOB, b"hello")


def test_a_talk_is_counted_message_by_message(start: Start) -> None:
    alice, bob = start("alice"), start("bob")
    # What the reference is told to send unreliably goes reliably until its own side is up, which the first message may precede.
    alice.send(BOB, b"hello")
    bob.until(lambda: connected(bob, alice), "a session", 5)
    alice.talk(BOB, 1, per_s=200)
    bob.talk(ALICE, 1, per_s=200, is_reliable=False)
    bob.until(lambda: bob.heard(ALICE).received == 200, "all that alice said", 10)
    alice.until(lambda: len(alice.heard(BOB).unreliable) == 200, "all that bob said", 10)
    heard = bob.heard(ALICE)
    assert (heard.missing(200), heard.doubled, heard.is_ordered, heard.unreliable) == (0, 0, True, [])
    assert alice.heard(BOB).reliable == []
    assert alice.said() == bob.said() == {"sent": 200, "is_done": True, "refused": {}}


def test_a_talk_that_pauses_shows_its_silence(start: Start) -> None:
    alice, bob = start("alice"), start("bob")
    alice.send(BOB, b"hello")
    bob.take()
    alice.talk(BOB, 2)
    time.sleep(0.5)
    alice.pause()
    time.sleep(1)
    alice.resume()
    bob.until(lambda: bob.heard(ALICE).received == 100, "all that alice said", 10)
    assert 900_000 < bob.heard(ALICE).silence_us(0) < 1_500_000


def test_a_bad_signaling_service_delays_a_session_and_does_not_prevent_it(start: Start) -> None:
    bad = {"signal_loss_percent": 30.0, "signal_duplicate_percent": 20.0, "signal_delay_ms": 30}
    alice, bob = start("alice", **bad, signal_seed=1), start("bob", **bad, signal_seed=2)
    began_us = alice.send(BOB, b"hello")
    at_us = bob.take(timeout_s=10)[2]
    print(f"\nfirst message {(at_us - began_us) / 1_000:.0f} ms")
    assert at_us - began_us > 60_000


def test_a_wish_that_cannot_be_met_is_an_error_with_a_sentence(start: Start) -> None:
    alice = start("alice")
    with pytest.raises(ChildError, match="does not read the identity 'nonsense'"):
        alice.send("nonsense", b"", RELIABLE)
    with pytest.raises(ChildError, match="no setting number 18"):
        alice.request("set_option", name="18", value=1)
    with pytest.raises(ChildError, match="nothing came on channel 3"):
        alice.take(3, timeout_s=0.1)
