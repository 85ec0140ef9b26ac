"""How an end on one side shows on the other: numbers and texts of closes, peers that die, unconfirmed messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from peergram import Config, EndReason, Result, Unconfirmed
from peergram.events import ConnectionState

from .child import Answer
from .conftest import ReferenceFactory
from .gns import State
from .ours import OUR_NAME, ROLES, THEIR_NAME, Duet, Role, connected

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("role", ROLES)]

ROOT = Path(__file__).resolve().parents[2]
QUICK = Config(timeout_connected_us=500_000)
VANISHING = f"""
import sys, time
from peergram import Config, Messages, SendFlags
peer, is_dialing = sys.argv[1], sys.argv[2] == "we dial"
listen = None if is_dialing else "127.0.0.1:0"
net = Messages("{OUR_NAME}", listen=listen, config=Config(framing="raw"), trust="open", signaling=None)
net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
if is_dialing:
    net.send_message_to_user(peer, b"here I am", SendFlags.RELIABLE)
print(0 if is_dialing else net.local_addresses[0][1], flush=True)
while True:
    net.run_callbacks()
    time.sleep(0.01)
"""


def last_change(duet: Duet) -> Answer:
    """What the reference's callback said last."""
    change: Answer = duet.reference.request("events")["events"][-1]
    return change


def test_number_and_text_of_the_references_close_arrive_here_with_what_is_unconfirmed(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    with connected(reference, free_port, role, settings={"lag_recv_ms": 400}) as duet:
        duet.settle()
        assert duet.send(b"too late") == Result.OK
        assert duet.send(b"as well") == Result.OK
        duet.reference.request("close", reason=1_042, debug="enough for today")
        duet.step_until(lambda: bool(duet.failures))
        (failure,) = duet.failures
        assert (failure.reason, failure.debug) == (1_042, "enough for today")
        assert failure.state == ConnectionState.CLOSED_BY_PEER
        assert failure.unconfirmed == Unconfirmed(2, 15)


def test_a_close_by_the_reference_that_loses_nothing_needs_no_callback(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    with connected(reference, free_port, role) as duet:
        duet.settle()
        duet.their_send(b"last words")
        duet.reference.request("close", reason=2_999, debug="bye", linger=True)
        duet.expect_here([b"last words"])
        duet.step_until(lambda: duet.state == ConnectionState.NONE)
        assert duet.failures == []


def test_the_reference_hears_that_we_closed_the_session(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role) as duet:
        duet.settle()
        assert duet.net.close_session_with_user(duet.peer)
        info = duet.reference.wait("closed")["info"]
        assert (info["state"], info["end_reason"]) == (State.CLOSED_BY_PEER, EndReason.SESSION_CLOSED)
        assert info["end_debug"] == "CloseSessionWithUser"
        # The state changes before the callback runs.
        duet.step_until(lambda: last_change(duet)["new"] == State.CLOSED_BY_PEER)
        assert (last_change(duet)["end_reason"], last_change(duet)["end_debug"]) == (1_001, "CloseSessionWithUser")
        duet.step()
        assert duet.failures == []


def test_what_we_sent_before_closing_the_session_still_arrives(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    sent = [b"%d" % index * 500 for index in range(100)]
    with connected(reference, free_port, role, settings={"lag_recv_ms": 50}) as duet:
        duet.send_all(sent)
        assert duet.net.close_session_with_user(duet.peer)
        duet.expect_there(sent)
        assert duet.reference.wait("closed")["info"]["end_reason"] == EndReason.SESSION_CLOSED
        duet.step()
        assert duet.failures == []


def test_the_reference_hears_that_our_program_closed(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role) as duet:
        duet.settle()
        duet.net.close()
        info = duet.reference.wait("closed", timeout_s=2)["info"]
        assert (info["state"], info["end_reason"]) == (State.CLOSED_BY_PEER, EndReason.SESSION_CLOSED)


def test_a_killed_reference_is_noticed_and_what_it_never_confirmed_is_counted(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    with connected(reference, free_port, role, QUICK) as duet:
        duet.settle()
        duet.reference.kill()
        assert [duet.send(data) for data in (b"one", b"seven", bytes(40_000))] == [Result.OK] * 3
        duet.step_until(lambda: bool(duet.failures))
        (failure,) = duet.failures
        assert (failure.reason, failure.state) == (EndReason.MISC_TIMEOUT, ConnectionState.PROBLEM_DETECTED_LOCALLY)
        assert failure.unconfirmed == Unconfirmed(3, 40_008)
        info = duet.info
        assert (info.state, info.end_reason) == (ConnectionState.PROBLEM_DETECTED_LOCALLY, EndReason.MISC_TIMEOUT)
        assert duet.send(b"more") == Result.CONNECT_FAILED


def test_the_reference_notices_that_we_vanished(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    peer = reference(identity=THEIR_NAME, timeout_connected_ms=500)
    if role == "we dial":
        peer.request("listen", port=free_port)
    command = [sys.executable, "-c", VANISHING, f"ip:127.0.0.1:{free_port}", role]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            port = int(child.stdout.readline())
            if role == "they dial":
                peer.request("connect", port=port)
            peer.wait("connected")
            assert peer.request("info")["info"]["identity"] == OUR_NAME
        finally:
            child.kill()
    peer.request("send", data="00")
    info = peer.wait("closed")["info"]
    assert (info["state"], info["end_reason"]) == (State.PROBLEM_DETECTED_LOCALLY, EndReason.MISC_TIMEOUT)


def test_a_request_that_nobody_answers_runs_out_of_time_on_both_sides(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    peer = reference(identity=THEIR_NAME, timeout_initial_ms=4_000)
    with Duet(peer, role, Config(timeout_initial_us=1_000_000)) as duet:
        if role == "they dial":
            duet.accepts = False
            duet.begin(0)
            duet.step_until(lambda: bool(duet.requests))
            info = peer.wait("closed")["info"]
            assert (info["state"], info["end_reason"]) == (State.CLOSED_BY_PEER, EndReason.MISC_TIMEOUT)
            assert "accept" in info["end_debug"]
            assert duet.failures == []
        else:
            nobody = f"ip:127.0.0.1:{free_port}"
            assert duet.net.send_message_to_user(nobody, b"?", 8) == Result.OK
            duet.step_until(lambda: bool(duet.failures))
            (failure,) = duet.failures
            assert (failure.reason, failure.unconfirmed.messages) == (EndReason.MISC_TIMEOUT, 1)
