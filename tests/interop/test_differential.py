"""One script, two libraries: what the reference answers row by row, and what ours does.

Two references talk to each other by the script, then two of ours. `ROWS` has both answers; they differ in the rows of
`DELIBERATE` and in no other (docs/semantics.md says what ours does). All live on hosts of a lab, see `test_gns_party`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab import open_lab

from .child import ROOT
from .gns import GnsError, Setting, library_path
from .party import RELIABLE, PartyOptions, PartyProcess, connected

pytestmark = pytest.mark.interop

SIGNAL_PORT = 10_000
ALICE, BOB = "str:alice", "str:bob"
NO_DELAY = 4
AUTO_RESTART = 32
OK, FAIL, INVALID_PARAM, LIMIT_EXCEEDED, CONNECT_FAILED, IGNORED = 1, 2, 8, 25, 35, 41
CONNECTING, CONNECTED, LOCALLY = 1, 3, 5
MODULES = {"reference": "tests.interop.gns_party", "ours": "tests.scenarios.p2p_peer"}
SETTLE_S = 0.5
IDLE_S = 190
SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
Row = Callable[[PartyProcess, PartyProcess], object]


def result(sender: PartyProcess, to: str, data: bytes, flags: int = RELIABLE, channel: int = 0) -> int:
    return int(sender.request("send", to=to, data=data.hex(), flags=flags, channel=channel)["result"])


def did(party: PartyProcess, what: str, **options: Any) -> bool:
    return bool(party.request(what, **options)["did"])


def unread(party: PartyProcess, channel: int = 0) -> list[bytes]:
    return [bytes.fromhex(message[2]) for message in party.request("receive", channel=channel)["messages"]]


def meet(alice: PartyProcess, bob: PartyProcess) -> None:
    alice.send(BOB, b"hello")
    bob.take()
    alice.until(lambda: connected(alice, bob), "connected", 10)


def state(party: PartyProcess, other: str) -> int:
    standing = party.standing(other)
    return 0 if standing is None else standing.state


def first_send(alice: PartyProcess, bob: PartyProcess) -> object:
    return result(alice, BOB, b"hello"), state(alice, BOB), bob.take()[1]


def too_large(alice: PartyProcess, bob: PartyProcess) -> object:
    return result(alice, BOB, bytes(524_289)), state(alice, BOB)


def reliable_and_no_delay(alice: PartyProcess, bob: PartyProcess) -> object:
    return result(alice, BOB, b"x", RELIABLE | NO_DELAY)


def no_delay_before_connected(alice: PartyProcess, bob: PartyProcess) -> object:
    return result(alice, BOB, b"x", NO_DELAY)


def largest_of_the_send_buffer(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    return result(alice, BOB, bytes(524_288))


def empty_and_negative_channel(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    return result(alice, BOB, b"", channel=-3), bob.take(-3)[1]


def large_unreliable(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    sent = result(alice, BOB, bytes(17_000), 0)
    time.sleep(SETTLE_S)
    messages = bob.request("receive", channel=0)["messages"]
    return sent, [(message[1] & RELIABLE, len(message[2]) // 2) for message in messages]


def accept_without_session(alice: PartyProcess, bob: PartyProcess) -> object:
    return did(alice, "accept", identity="str:nobody")


def accept_of_a_live_session(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    return did(alice, "accept", identity=BOB), did(bob, "accept", identity=ALICE)


def close_without_session(alice: PartyProcess, bob: PartyProcess) -> object:
    return did(alice, "close_session", identity="str:nobody")


def close_frees_at_once(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    bob.send(ALICE, b"unread")
    time.sleep(SETTLE_S)
    return did(alice, "close_session", identity=BOB), state(alice, BOB), unread(alice)


def close_tells_the_peer(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    did(alice, "close_session", identity=BOB)
    time.sleep(2 * SETTLE_S)
    return state(bob, ALICE), len(bob.events("failed"))


def channel_only_sent_on(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    return did(alice, "close_channel", identity=BOB, channel=0)


def channel_never_used(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    return did(alice, "close_channel", identity=BOB, channel=9)


def last_channel_received_on(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    return did(bob, "close_channel", identity=ALICE, channel=0), state(bob, ALICE)


def to_oneself(alice: PartyProcess, bob: PartyProcess) -> object:
    sent = result(alice, ALICE, b"note")
    time.sleep(SETTLE_S)
    return sent, unread(alice), len(alice.events("request"))


def patience_of(kind: str, *, initial_s: float = 2, connected_s: float = 10, resume_s: float = 0) -> dict[str, float | str]:
    """Settings of the one or the other: how long to try, and how long to bear silence."""
    if kind == "reference":
        return {
            str(int(Setting.TIMEOUT_INITIAL)): int(initial_s * 1_000),
            str(int(Setting.TIMEOUT_CONNECTED)): int(connected_s * 1_000),
        }
    return {
        "timeout_initial_us": int(initial_s * 1e6),
        "timeout_connected_us": int(connected_s * 1e6),
        "resume_window_us": int(resume_s * 1e6),
    }


def failures(party: PartyProcess) -> list[tuple[int, int]]:
    """(state, reason) of each that was reported."""
    return [(event["state"], event["end_reason"]) for event in party.events("failed")]


def nobody_answers(alice: PartyProcess, bob: PartyProcess) -> object:
    first = result(alice, "str:nobody", b"hello"), state(alice, "str:nobody")
    alice.until(lambda: bool(alice.events("failed")), "failed", 10)
    return first, failures(alice), state(alice, "str:nobody")


def send_after_a_time_out(alice: PartyProcess, bob: PartyProcess) -> object:
    nobody_answers(alice, bob)
    plain = result(alice, "str:nobody", b"again")
    restarted = result(alice, "str:nobody", b"again", RELIABLE | AUTO_RESTART)
    return plain, restarted, state(alice, "str:nobody")


def send_after_a_time_out_and_a_close(alice: PartyProcess, bob: PartyProcess) -> object:
    nobody_answers(alice, bob)
    closed = did(alice, "close_session", identity="str:nobody")
    return closed, state(alice, "str:nobody"), result(alice, "str:nobody", b"again")


def request_ignored(alice: PartyProcess, bob: PartyProcess) -> object:
    bob.request("accept_all", accepts=False)
    result(alice, BOB, b"hello")
    alice.until(lambda: bool(alice.events("failed")), "failed", 10)
    return failures(alice), len(bob.events("request")), unread(bob)


def dead_with_data_in_flight(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    bob.kill()
    sent = [result(alice, BOB, b"lost") for _ in range(3)]
    alice.until(lambda: state(alice, BOB) != CONNECTED, "noticed", 30)
    time.sleep(SETTLE_S)
    return sent, failures(alice), state(alice, BOB)


def send_to_the_dead_with_auto_restart(alice: PartyProcess, bob: PartyProcess) -> object:
    dead_with_data_in_flight(alice, bob)
    return result(alice, BOB, b"again"), result(alice, BOB, b"again", RELIABLE | AUTO_RESTART), state(alice, BOB)


def dead_with_nothing_in_flight(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    time.sleep(SETTLE_S)
    bob.kill()
    alice.until(lambda: state(alice, BOB) != CONNECTED, "noticed", 30)
    time.sleep(SETTLE_S)
    return failures(alice), state(alice, BOB)


def silent_for_a_while(alice: PartyProcess, bob: PartyProcess) -> object:
    """For longer than either bears; ours looks for a way for a minute."""
    meet(alice, bob)
    bob.pause()
    sent = result(alice, BOB, b"are you there?")
    time.sleep(15)
    bob.resume()
    time.sleep(5)
    return sent, unread(bob), state(alice, BOB)


def counts_while_connecting(alice: PartyProcess, bob: PartyProcess) -> object:
    for size, flags in ((1_000, RELIABLE), (1_000, RELIABLE), (500, 0)):
        result(alice, "str:nobody", bytes(size), flags)
    standing = alice.standing("str:nobody")
    assert standing is not None
    return standing.pending_reliable, standing.pending_unreliable, standing.unacked_reliable, standing.ping_ms


def counts_when_all_arrived(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    for size in (1_000, 1_000, 500):
        result(alice, BOB, bytes(size))
    time.sleep(2 * SETTLE_S)
    standing = alice.standing(BOB)
    assert standing is not None
    return standing.pending_reliable, standing.pending_unreliable, standing.unacked_reliable


def counts_toward_the_silent(alice: PartyProcess, bob: PartyProcess) -> object:
    """All of it went out, nothing of it is acknowledged; each library frames as it does."""
    meet(alice, bob)
    time.sleep(SETTLE_S)
    bob.pause()
    for size in (1_000, 1_000, 500):
        result(alice, BOB, bytes(size))
    time.sleep(SETTLE_S)
    standing = alice.standing(BOB)
    bob.resume()
    assert standing is not None
    in_all = standing.pending_reliable + standing.unacked_reliable
    return standing.pending_unreliable, in_all


def close_of_a_channel_with_unread_messages(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    for channel in (1, 2, 1):
        alice.send(BOB, b"on %d" % channel, channel=channel)
    time.sleep(SETTLE_S)
    closed = did(bob, "close_channel", identity=ALICE, channel=1)
    left = unread(bob, 1), unread(bob, 2), state(bob, ALICE)
    alice.send(BOB, b"once more", channel=1)
    return closed, left, bob.take(1)[1]


def close_of_a_channel_with_messages_under_way(alice: PartyProcess, bob: PartyProcess) -> object:
    """What was handed in before still goes out; the session lives on by its other channel."""
    meet(alice, bob)
    bob.send(ALICE, b"back", channel=3)
    alice.take(3)
    bob.send(ALICE, b"back", channel=4)
    alice.take(4)
    result(alice, BOB, bytes(100_000), channel=3)
    closed = did(alice, "close_channel", identity=BOB, channel=3)
    return closed, len(bob.take(3)[1]), state(alice, BOB)


def close_with_messages_under_way(alice: PartyProcess, bob: PartyProcess) -> object:
    """Handed in just before the close: 20 kB, which need a few packets."""
    meet(alice, bob)
    time.sleep(SETTLE_S)
    result(alice, BOB, bytes(20_000))
    did(alice, "close_session", identity=BOB)
    time.sleep(2 * SETTLE_S)
    return [len(data) for data in unread(bob)]


def close_by_the_peer_before_a_send(alice: PartyProcess, bob: PartyProcess) -> object:
    """The other side has heard of it; its next message opens a session."""
    meet(alice, bob)
    did(alice, "close_session", identity=BOB)
    bob.until(lambda: state(bob, ALICE) == 0, "heard of it", 30)
    sent = result(bob, ALICE, b"still there?")
    return sent, alice.take()[1], len(alice.events("request")), len(failures(bob))


def close_toward_the_quiet(alice: PartyProcess, bob: PartyProcess) -> object:
    """Nothing is sent for a while before the close and after it: whether that is heard of within five seconds."""
    meet(alice, bob)
    time.sleep(5)
    did(alice, "close_session", identity=BOB)
    time.sleep(5)
    return state(bob, ALICE)


def idle_for_longer_than_three_minutes(alice: PartyProcess, bob: PartyProcess) -> object:
    meet(alice, bob)
    time.sleep(IDLE_S)
    return state(alice, BOB), state(bob, ALICE), failures(alice), failures(bob)


def one_way_for_longer_than_three_minutes(alice: PartyProcess, bob: PartyProcess) -> object:
    """A message every second; how often the session of him who only listens ended meanwhile, and what came."""
    meet(alice, bob)
    alice.talk(BOB, IDLE_S, per_s=1)
    time.sleep(IDLE_S + 5)
    ends = [event for event in bob.events("standing") if event["state"] == 0]
    return len(ends), bob.heard(ALICE).missing(alice.said()["sent"])


def no_session(alice: PartyProcess, bob: PartyProcess) -> object:
    return state(alice, "str:nobody")


ROWS: dict[Row, tuple[object, object]] = {
    first_send: ((OK, 1, b"hello"), (OK, 1, b"hello")),
    too_large: ((INVALID_PARAM, 0), (INVALID_PARAM, 0)),
    reliable_and_no_delay: (OK, INVALID_PARAM),
    no_delay_before_connected: (OK, IGNORED),
    largest_of_the_send_buffer: (LIMIT_EXCEEDED, OK),
    empty_and_negative_channel: ((OK, b""), (OK, b"")),
    large_unreliable: ((OK, [(RELIABLE, 17_000)]), (OK, [(RELIABLE, 17_000)])),
    accept_without_session: (False, False),
    accept_of_a_live_session: ((True, True), (True, True)),
    close_without_session: (False, False),
    close_frees_at_once: ((True, 0, []), (True, 0, [])),
    close_tells_the_peer: ((0, 0), (0, 0)),
    channel_only_sent_on: (False, True),
    channel_never_used: (False, False),
    last_channel_received_on: ((True, 0), (True, 0)),
    to_oneself: ((OK, [b"note"], 1), (OK, [b"note"], 0)),
    no_session: (0, 0),
    nobody_answers: (((OK, CONNECTING), [(LOCALLY, 5003)], LOCALLY), ((OK, CONNECTING), [(LOCALLY, 5003)], LOCALLY)),
    send_after_a_time_out: ((CONNECT_FAILED, OK, CONNECTING), (CONNECT_FAILED, OK, CONNECTING)),
    send_after_a_time_out_and_a_close: ((True, 0, OK), (True, 0, OK)),
    request_ignored: (([(LOCALLY, 5003)], 1, []), ([(LOCALLY, 5003)], 1, [])),
    dead_with_data_in_flight: (([OK] * 3, [], 0), ([OK] * 3, [(LOCALLY, 5003)], LOCALLY)),
    send_to_the_dead_with_auto_restart: ((OK, OK, CONNECTING), (CONNECT_FAILED, OK, CONNECTING)),
    dead_with_nothing_in_flight: (([], 0), ([], 0)),
    silent_for_a_while: ((OK, [b"are you there?"], 0), (OK, [b"are you there?"], CONNECTED)),
    counts_while_connecting: ((2_521, 0, 0, None), (2_010, 505, 0, None)),
    counts_when_all_arrived: ((0, 0, 0), (0, 0, 0)),
    counts_toward_the_silent: ((0, 2_521), (0, 2_521)),
    close_of_a_channel_with_unread_messages: (
        (True, ([b"on 1"], [b"on 2"], CONNECTED), b"once more"),
        (True, ([], [b"on 2"], CONNECTED), b"once more"),
    ),
    close_of_a_channel_with_messages_under_way: ((True, 100_000, CONNECTED), (True, 100_000, CONNECTED)),
    close_with_messages_under_way: ([], [20_000]),
    close_by_the_peer_before_a_send: ((OK, b"still there?", 1, 0), (OK, b"still there?", 1, 0)),
    close_toward_the_quiet: (CONNECTED, 0),
    idle_for_longer_than_three_minutes: ((0, 0, [], []), (0, 0, [], [])),
    one_way_for_longer_than_three_minutes: ((1, 0), (0, 0)),
}
"""What two references answer, and two of ours."""
DELIBERATE: dict[Row, str] = {
    reliable_and_no_delay: "the header calls it invalid",
    no_delay_before_connected: "it cannot go at once; the reference forgets the flag until it is connected",
    largest_of_the_send_buffer: "the header allows it; the reference's own send buffer has no room for the header of a message",
    channel_only_sent_on: "a channel is open once it is used, in whichever direction",
    to_oneself: "nobody must be asked whether he wants to talk to himself",
    dead_with_data_in_flight: "three messages are lost, and the header promises a callback; the reference forgets them",
    send_to_the_dead_with_auto_restart: "follows from the row before: a failed session refuses without AutoRestart",
    silent_for_a_while: "between own peers a session outlives silence for `resume_window_us`, and nothing of it is lost",
    counts_while_connecting: "unreliable messages stay unreliable while they wait; the reference makes them reliable",
    close_of_a_channel_with_unread_messages: "all are thrown away; the reference stops at the first one of another channel",
    close_with_messages_under_way: "what was handed in is flushed for `linger_us`; the reference drops it",
    close_toward_the_quiet: "a close is said at once; the reference only answers so to what still comes",
    one_way_for_longer_than_three_minutes: "a session that is used either way is not idle",
}


QUICK = {"initial_s": 2.0}
SETTINGS: dict[Row, dict[str, float]] = {
    nobody_answers: QUICK,
    send_after_a_time_out: QUICK,
    send_after_a_time_out_and_a_close: QUICK,
    request_ignored: QUICK,
    dead_with_data_in_flight: {"connected_s": 2},
    send_to_the_dead_with_auto_restart: {"connected_s": 2},
    dead_with_nothing_in_flight: {"connected_s": 2},
    silent_for_a_while: {"connected_s": 2, "resume_s": 60},
}
"""What both sides are told where defaults would take long; nothing else differs from them."""
LONG = {idle_for_longer_than_three_minutes, one_way_for_longer_than_three_minutes}


@pytest.fixture(scope="module")
def lab() -> Iterator[Any]:
    try:
        library_path()
    except GnsError as error:
        pytest.skip(f"no reference to test against: {error}")
    with open_lab("alice@inet bob@inet signal@inet", "d") as running:
        command = [sys.executable, "-m", "tests.interop.line_signals", "{signal}", str(SIGNAL_PORT)]
        with running.popen("signal", command, cwd=ROOT, stdout=subprocess.PIPE) as server:
            assert server.stdout.readline() == b"listening\n"
            yield running
            server.kill()


def answer_of(kind: str, row: Row, lab: Any) -> object:
    """What two of this kind answer."""
    with ExitStack() as stack:
        pair: list[PartyProcess] = []
        for name in ("alice", "bob"):
            told = PartyOptions(
                identity=f"str:{name}",
                signaling=f"{lab.addr('signal')}:{SIGNAL_PORT}",
                settings=patience_of(kind, **SETTINGS[row]) if row in SETTINGS else {},
            )
            popen = lambda words, host=name, **how: lab.popen(host, words, **how)  # noqa: E731
            party = PartyProcess(MODULES[kind], told, popen)
            stack.callback(party.stop)
            pair.append(party)
        return row(*pair)


@pytest.mark.parametrize("row", ROWS, ids=[row.__name__ for row in ROWS])
@pytest.mark.parametrize("kind", MODULES)
def test_a_row_is_as_written(lab: Any, kind: str, row: Row) -> None:
    if row in LONG and not SOAK:
        pytest.skip("takes over three minutes: with PEERGRAM_SOAK=1")
    answer = answer_of(kind, row, lab)
    print(f"{row.__name__}: {kind} {answer}")
    assert answer == ROWS[row][kind == "ours"]


def test_the_rows_that_differ_are_the_deliberate_ones() -> None:
    assert {row for row, (reference, ours) in ROWS.items() if reference != ours} == set(DELIBERATE)
