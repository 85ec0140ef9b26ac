"""How long the first message takes: `python -m benches.first_message [--sessions N]`.

Two processes on this machine that run already and find each other on the local network. One sends a reliable message, the other
accepts whoever asks; what counts is the time from `send_message_to_user` to the message in the other program's hands. Two
cases:

* new names: each session is that of a new `Messages`, made a moment before, so that nothing is known of anybody;
* new sessions: one pair closes its session and opens another one, with sockets and addresses at hand.
"""

from __future__ import annotations

import argparse
import os
import secrets
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benches.disturbance import Disturbance
from peergram import Messages, SendFlags
from peergram.events import SessionRequested

_STAMP = struct.Struct("<q")
_SETTLE_S = 0.05
"""A new `Messages` is running when it sends; what its start costs is another question."""
_TIMEOUT_S = 10.0
_CLOSING_S = 0.5
"""Until a closed session is closed on both sides; oftener, and the limit of signals per peer on the local network would count."""
_CASES = ("new names", "new sessions")
_ANSWER_CHANNEL = 1


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for and print it."""
    options = _parser().parse_args(arguments)
    if options.side:
        _listen(options.name)
        return 0
    name = f"bench-{secrets.token_hex(4)}"
    command = [sys.executable, "-m", "benches.first_message", "--side", "listener", "--name", name]
    listener = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None
        listener.stdout.readline()
        for case in _CASES:
            disturbance = Disturbance()
            trips = _CALLS[case](name, options.sessions)
            _print(case, trips, disturbance.share())
    finally:
        listener.kill()
        listener.wait()
    return 0


def _listen(name: str) -> None:
    """The called side: accepts at once, and answers with the time at which the message was there."""
    with Messages(name, key=False, trust="open", state=False) as net:
        net.on_session_request = lambda request: _accept(net, request)
        print("ready", flush=True)
        while True:
            net.wait()
            net.run_callbacks()
            for message in net.receive_messages_on_channel(0, 100):
                now_us = time.monotonic_ns() // 1_000
                net.send_message_to_user(message.identity, _STAMP.pack(now_us), SendFlags.RELIABLE_NO_NAGLE, _ANSWER_CHANNEL)


def _accept(net: Messages, request: SessionRequested) -> None:
    net.accept_session_with_user(request.identity)


def _call(net: Messages, name: str) -> int:
    """One first message; how long it took."""
    began_us = time.monotonic_ns() // 1_000
    net.send_message_to_user(name, b"first", SendFlags.RELIABLE_NO_NAGLE)
    deadline_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline_s:
        net.wait(_TIMEOUT_S)
        net.run_callbacks()
        for message in net.receive_messages_on_channel(_ANSWER_CHANNEL, 1):
            return int(_STAMP.unpack(message.payload)[0]) - began_us
    raise SystemExit("a first message did not arrive")


def _new_names(name: str, sessions: int) -> list[int]:
    trips = []
    for _ in range(sessions):
        with Messages(f"caller-{secrets.token_hex(6)}", key=False, trust="open", state=False) as net:
            time.sleep(_SETTLE_S)
            trips.append(_call(net, name))
    return trips


def _new_sessions(name: str, sessions: int) -> list[int]:
    trips = []
    with Messages(f"caller-{secrets.token_hex(6)}", key=False, trust="open", state=False) as net:
        time.sleep(_SETTLE_S)
        _call(net, name)
        for _ in range(sessions):
            net.close_session_with_user(name)
            # The driver's own thread closes meanwhile.
            time.sleep(_CLOSING_S)
            trips.append(_call(net, name))
    return trips


_CALLS: dict[str, Callable[[str, int], list[int]]] = {"new names": _new_names, "new sessions": _new_sessions}


def _print(case: str, trips_us: list[int], others: float) -> None:
    trips_us.sort()
    row: dict[str, Any] = {
        "median": median(trips_us),
        "p99": trips_us[min(len(trips_us) - 1, len(trips_us) * 99 // 100)],
        "most": trips_us[-1],
    }
    figures = ", ".join(f"{name} {value / 1e3:.1f} ms" for name, value in row.items())
    print(f"{case}: {len(trips_us)} sessions, {figures}; others took {others:.0%}, load {os.getloadavg()[0]:.1f}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.first_message", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=100, metavar="N", help="how many of each case (100)")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
