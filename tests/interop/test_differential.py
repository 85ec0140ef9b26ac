"""One script, two libraries: what the reference answers row by row, and what ours does.

Two references talk to each other by the script, then two of ours. `ROWS` has both answers; they differ in the rows of
`DELIBERATE` and in no other (docs/semantics.md says what ours does). All live on hosts of a lab, see `test_gns_party`.
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

from .child import ROOT
from .gns import GnsError, library_path
from .party import RELIABLE, PartyOptions, PartyProcess, connected

pytestmark = pytest.mark.interop

SIGNAL_PORT = 10_000
ALICE, BOB = "str:alice", "str:bob"
NO_DELAY = 4
OK, FAIL, INVALID_PARAM, LIMIT_EXCEEDED, IGNORED = 1, 2, 8, 25, 41
MODULES = {"reference": "tests.interop.gns_party", "ours": "tests.scenarios.p2p_peer"}
SETTLE_S = 0.5
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
}
"""What two references answer, and two of ours."""
DELIBERATE: set[Row] = {
    reliable_and_no_delay,
    no_delay_before_connected,
    largest_of_the_send_buffer,
    channel_only_sent_on,
    to_oneself,
}


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
            told = PartyOptions(identity=f"str:{name}", signaling=f"{lab.addr('signal')}:{SIGNAL_PORT}")
            popen = lambda words, host=name, **how: lab.popen(host, words, **how)  # noqa: E731
            party = PartyProcess(MODULES[kind], told, popen)
            stack.callback(party.stop)
            pair.append(party)
        return row(*pair)


@pytest.mark.parametrize("row", ROWS, ids=[row.__name__ for row in ROWS])
@pytest.mark.parametrize("kind", MODULES)
def test_a_row_is_as_written(lab: Any, kind: str, row: Row) -> None:
    assert answer_of(kind, row, lab) == ROWS[row][kind == "ours"]


def test_the_rows_that_differ_are_the_deliberate_ones() -> None:
    assert {row for row, (reference, ours) in ROWS.items() if reference != ours} == DELIBERATE
