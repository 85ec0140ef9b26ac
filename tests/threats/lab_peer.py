"""The programs that `test_lab` runs on the hosts of a network lab: a victim, its friends, a hostile peer, an attacker.

All of them share the cores of one machine, which in the world they do not: there an attacker has computers of his own. So the
victim goes before everybody, else the scheduler decides who is heard: with eleven programs on two cores, a victim that gets no
core for 100 ms loses packets in its socket's buffer, whatever its code does. It reports how long it had to wait for a core.

Each takes one command per line on its input and answers with one line of JSON; it ends when its input does. Times are those of
the machine's monotonic clock, which all lab hosts share, so the victim sees how long each message was under way.

    python -m tests.threats.lab_peer victim --listen 203.0.113.2:7000
    python -m tests.threats.lab_peer friend --name friend --to ip:203.0.113.2:7000
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from peergram import Config, Messages, Result, SendFlags
from peergram.address import parse_address
from peergram.crypto.seal import AesGcmCipher
from peergram.drivers.system import monotonic_us
from peergram.endpoint.endpoint import Endpoint
from peergram.wire.data_packet import encode_data_header

RELIABLE_PER_S = 100
RELIABLE_BYTES = 2_500
"""2 Mbit/s ([FLOOD]), in few messages: nine friends must leave the flood a core."""
UNRELIABLE_PER_S = 50
UNRELIABLE_BYTES = 1_000
HOSTILE_RATE_BYTES = 64_000_000
BURST = 10
TICK_S = 0.005

_HEADER = struct.Struct("<8sIq")
_IP_TRANSPARENT = 19


def percentile(values: list[int], share: float) -> int:
    """The value that `share` of all values do not exceed; 0 if there are none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0


def answer(report: dict[str, Any]) -> None:
    """One line to whoever runs us."""
    print(json.dumps(report), flush=True)


def commands(net: Messages | None, between: Callable[[], None]) -> Iterator[list[str]]:
    """Each command as its words; meanwhile `between` is called at least 50 times per second."""
    while True:
        ready = select.select([sys.stdin, *([net] if net else [])], [], [], 0.02)[0]
        between()
        if sys.stdin in ready:
            words = sys.stdin.readline().split()
            if not words:
                return
            yield words


# --- the victim ---


class Phase:
    """What one peer delivered in one part of a test."""

    def __init__(self) -> None:
        self.reliable = 0
        self.unreliable = 0
        self.is_ordered = True
        self.first_sent_us = 0
        self.last_arrived_us = 0
        self.delays_us: list[int] = []

    def add(self, number: int, sent_us: int, arrived_us: int, is_reliable: bool) -> None:
        if not is_reliable:
            self.unreliable += 1
            return
        self.is_ordered &= number == self.reliable
        self.reliable += 1
        self.first_sent_us = self.first_sent_us or sent_us
        self.last_arrived_us = arrived_us
        self.delays_us.append(arrived_us - sent_us)

    def report(self) -> dict[str, Any]:
        took_us = max(1, self.last_arrived_us - self.first_sent_us)
        return {
            "reliable": self.reliable,
            "unreliable": self.unreliable,
            "is_ordered": self.is_ordered,
            "reliable_per_s": self.reliable * 1_000_000 / took_us,
            "delay_p99_ms": percentile(self.delays_us, 0.99) / 1_000,
        }


class Victim:
    """Listens, lets everybody in, reads everything, and tells what it got."""

    def __init__(self, listen: str) -> None:
        self.late_us: list[int] = []
        self.forged = 0
        self._time_timers()
        self._count_forged()
        self.net = Messages("victim", listen=listen, signaling=None)
        self.net.on_session_request = lambda request: self.net.accept_session_with_user(request.identity)
        self.failures: list[str] = []
        self.net.on_session_failed = lambda failure: self.failures.append(f"{failure.identity}: {failure.debug}")
        self.peers: dict[str, dict[str, Phase]] = defaultdict(lambda: defaultdict(Phase))

    def run(self) -> None:
        with self.net:
            answer({})
            for words in commands(self.net, self.read):
                if words == ["forget"]:
                    self.late_us.clear()
                answer(self.report())

    def read(self) -> None:
        self.net.run_callbacks()
        for message in self.net.receive_messages_on_channel(0, 1_000):
            label, number, sent_us = _HEADER.unpack_from(message.payload)
            phase = self.peers[str(message.identity)][label.rstrip(b"\0").decode()]
            phase.add(number, sent_us, message.received_at_us, message.reliable)

    def report(self) -> dict[str, Any]:
        links = {f"{link.remote[0]}:{link.remote[1]}": link.connection.connection_id for link in self.net._endpoint._links}
        peers: dict[str, Any] = {}
        for name, phases in self.peers.items():
            address = getattr(self.net.get_session_connection_info(name).connection, "address", "")
            states = {label: phase.report() for label, phase in phases.items()}
            peers[name] = {"address": address, "connection_id": links.get(address), "phases": states}
        return {
            "peers": peers,
            "failures": self.failures,
            "defects": self.net._driver._pump.defects,
            "forged": self.forged,
            "late_p99_ms": percentile(self.late_us, 0.99) / 1_000,
            "datagrams": udp_counter("InDatagrams") + udp_counter("RcvbufErrors"),
            "overflowed": udp_counter("RcvbufErrors"),
            "core_wait_ms": core_wait_ms(),
        }

    def _time_timers(self) -> None:
        handle_timeout = Endpoint.handle_timeout

        def timed(endpoint: Endpoint, now_us: int) -> None:
            if (deadline := endpoint.poll_timeout()) is not None:
                self.late_us.append(max(0, now_us - deadline.at_us))
            handle_timeout(endpoint, now_us)

        Endpoint.handle_timeout = timed  # type: ignore[method-assign, assignment]

    def _count_forged(self) -> None:
        open_packet = AesGcmCipher.open

        def counted(cipher: AesGcmCipher, packet_number: int, sealed: bytes | memoryview) -> bytes | None:
            payload = open_packet(cipher, packet_number, sealed)
            self.forged += payload is None
            return payload

        AesGcmCipher.open = counted  # type: ignore[method-assign, assignment]


def udp_counter(name: str) -> int:
    """Of this host's sockets. InDatagrams are those that were read, RcvbufErrors those that found no room in a buffer."""
    rows = [line.split()[1:] for line in Path("/proc/self/net/snmp").read_text().splitlines() if line.startswith("Udp:")]
    return int(rows[1][rows[0].index(name)])


def core_wait_ms() -> float:
    """How long the threads of this process, taken together, could have run and were given no core."""
    waits_ns = [int(Path(task, "schedstat").read_text().split()[1]) for task in Path("/proc/self/task").iterdir()]
    return sum(waits_ns) / 1_000_000


# --- its peers ---


class Friend:
    """Sends what [FLOOD] asks for: 2 Mbit/s reliable, 50 unreliable messages per second. Or it floods, and is no friend."""

    def __init__(self, name: str, to: str, config: Config | None = None) -> None:
        self.net = Messages(name, config=config, signaling=None)
        self.to = to
        self.failures: list[str] = []
        self.net.on_session_failed = lambda failure: self.failures.append(failure.debug)

    def run(self) -> None:
        with self.net:
            self.send("hello", 0, SendFlags.RELIABLE)
            for _, label, seconds, *rate in commands(self.net, self.net.run_callbacks):
                sent = self.flood(label, float(seconds), int(rate[0]), *rate[1:]) if rate else self.talk(label, float(seconds))
                self.net.run_callbacks()
                answer({"sent": sent, "failures": self.failures})

    def talk(self, label: str, seconds: float) -> int:
        """Send reliable messages and unreliable ones at an even pace; returns how many reliable ones."""
        start_s = time.monotonic()
        sent = unreliable = 0
        while sent < int(seconds * RELIABLE_PER_S) and not self.failures:
            passed_s = time.monotonic() - start_s
            while unreliable < passed_s * UNRELIABLE_PER_S:
                self.send(label, unreliable, SendFlags.UNRELIABLE)
                unreliable += 1
            due = min(int(passed_s * RELIABLE_PER_S) + 1, int(seconds * RELIABLE_PER_S))
            while sent < due and self.send(label, sent, SendFlags.RELIABLE) == Result.OK:
                sent += 1
            self.net.run_callbacks()
            time.sleep(TICK_S)
        return sent

    def flood(self, label: str, seconds: float, rate_per_s: int, how: str) -> int:
        """Send unreliable messages at that rate, whatever becomes of them; returns how many were taken.

        `singly` costs the victim most per message; `batched`, many packets to a system call, lets us send most.
        """
        flags = {"singly": SendFlags.UNRELIABLE_NO_NAGLE, "batched": SendFlags.UNRELIABLE}[how]
        taken = 0

        def send(number: int) -> None:
            nonlocal taken
            taken += self.send(label, number, flags) == Result.OK

        paced(rate_per_s, seconds, send)
        return taken

    def send(self, label: str, number: int, flags: SendFlags) -> Result:
        size = RELIABLE_BYTES if flags & SendFlags.RELIABLE else UNRELIABLE_BYTES
        payload = _HEADER.pack(label.encode(), number, monotonic_us()).ljust(size, b".")
        return self.net.send_message_to_user(self.to, payload, flags)


def paced(rate_per_s: int, seconds: float, send: Callable[[int], object]) -> int:
    """Call `send` with 0, 1, 2, … in bursts of 10 at an even rate; returns how often. What is late at the end is left out."""
    start_s = time.monotonic()
    sent = 0
    while (passed_s := time.monotonic() - start_s) < seconds:
        if passed_s * rate_per_s < sent:
            time.sleep(BURST / rate_per_s)
            continue
        for number in range(sent, sent + BURST):
            send(number)
        sent += BURST
    return sent


# --- the attacker ---


def random_datagrams(rng: Random) -> list[bytes]:
    """Random bytes in classes of length from 0 to 65 507; the long ones are rare, since each is a train of fragments."""
    sizes = [0, 1, 4, 5, 65_507] + [rng.randrange(64) for _ in range(400)] + [rng.randrange(64, 1_473) for _ in range(595)]
    datagrams = [rng.randbytes(size) for size in sizes]
    rng.shuffle(datagrams)
    return datagrams


def forged_datagrams(rng: Random, connection_id: int) -> list[bytes]:
    """Data packets of a live connection in all but the key: any number, any content."""
    sizes = [rng.randrange(1_250) for _ in range(1_000)]
    return [encode_data_header(connection_id, rng.randrange(1 << 16)) + rng.randbytes(size) for size in sizes]


def attack(kind: str, to: str, connection_id: int, source: str | None) -> None:
    """Send datagrams of that kind with each command `run LABEL SECONDS RATE`; `source` is the address to speak from."""
    rng = Random(kind)
    made = {"random": random_datagrams(rng), "forged": forged_datagrams(rng, connection_id), "empty": [b""]}[kind]
    target = parse_address(to)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        if source is not None:
            sender.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
            sender.bind(parse_address(source))
        answer({})
        for _, _, seconds, rate in commands(None, lambda: None):
            sent = paced(int(rate), float(seconds), lambda number: sender.sendto(made[number % len(made)], target))
            answer({"sent": sent})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["victim", "friend", "hostile", "attacker"])
    parser.add_argument("--listen", default="")
    parser.add_argument("--to", default="")
    parser.add_argument("--name", default="friend")
    parser.add_argument("--kind", default="random")
    parser.add_argument("--connection-id", type=int, default=0)
    parser.add_argument("--source")
    given = parser.parse_args()
    if given.role == "victim":
        # A nice value would not do: where the scheduler groups programs by session, it counts inside the group only. A container
        # may forbid both; then only a machine with cores to spare keeps the full figures.
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    if given.role == "victim":
        Victim(given.listen).run()
    elif given.role == "attacker":
        attack(given.kind, given.to, given.connection_id, given.source)
    else:
        is_hostile = given.role == "hostile"
        Friend(given.name, given.to, Config(rate="fixed", send_rate_bytes=HOSTILE_RATE_BYTES) if is_hostile else None).run()


if __name__ == "__main__":
    main()
