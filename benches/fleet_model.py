"""What many peers cost the cores of a fleet, in virtual time: `python -m benches.fleet_model [--clients N] [--nodes N]`.

The nodes' real code (`SignalingCore`, `FleetCore`, the messages between them and of clients) with a bus that is a dictionary and
clients that are numbers: everybody logs in as fast as nodes take it, then for some minutes of virtual time everybody is asked for
a sign of life when he is silent, and some call each other. It leaves out sockets, TLS and NATS; `benches.fleet` has them.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from peergram import config
from peergram.address import Address
from peergram.crypto.keys import SigningKey
from peergram.identity import Identity
from peergram.servers.fleet_core import Deliver, FleetCore, Load, Publish, Subscribe, Unsubscribe
from peergram.servers.fleet_names import LeasedNames
from peergram.servers.signaling_core import (
    Arrived,
    Ask,
    Claimed,
    ClaimName,
    Elsewhere,
    Left,
    NamesChanged,
    RenewName,
    Send,
    SignalingCore,
)
from peergram.signaling.websocket_protocol import (
    CarriedSignal,
    Hello,
    Login,
    decode_server_message,
    encode_client_message,
    login_text,
)

SECOND = 1_000_000
URL = "ws://192.0.2.7:27180/"
SERVER: Address = ("192.0.2.7", 27_180)
SIGNAL = bytes(600)
SIGNALS_PER_CALL = 8


class Node:
    """One server; `cpu_s` is what its cores took."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.core = SignalingCore(
            entropy=Random(number).randbytes, accepts_url=lambda url, local: True, now_us=fleet.now_us, is_in_fleet=True,
            leases=LeasedNames(config.SERVER_NAMES_MAX),
        )  # fmt: skip
        self.bus = FleetCore(
            name=str(number), entropy=Random(-number).randbytes, load=lambda: Load(self.core.clients), now_us=fleet.now_us,
            wall_offset_us=0,
        )  # fmt: skip
        self.cpu_s = 0.0
        self.said: list[Send] = []
        self.asked: list[int] = []
        self._fleet = fleet

    def work(self, do: Callable[[], None]) -> None:
        """Something comes in, and everything that follows from it at this node."""
        begin_s = time.process_time()
        do()
        self.drain()
        self.cpu_s += time.process_time() - begin_s

    def drain(self) -> None:
        now_us = self._fleet.now_us
        while (output := self.core.poll_output()) is not None:
            if isinstance(output, Send):
                self.said.append(output)
            elif isinstance(output, Elsewhere):
                self.bus.carry(output.sender, output.host, output.receiver, output.blob, is_here=output.is_here)
            elif isinstance(output, Arrived):
                self.bus.handle_arrived(output.identity, output.public_key, now_us)
            elif isinstance(output, Left):
                self.bus.handle_left(output.identity)
            elif isinstance(output, ClaimName):
                self.core.handle_claimed(output.client_id, Claimed(output.public_key, is_new=True), now_us)
                self.bus.tell_name(output.identity, output.public_key, False)
            elif isinstance(output, RenewName):
                self.core.handle_renewed(output.identity, Claimed(output.public_key, output.is_proven), now_us)
                self.bus.tell_name(output.identity, output.public_key, output.is_proven)
            elif isinstance(output, Ask):
                self.asked.append(output.client_id)
            else:
                assert isinstance(output, NamesChanged), output
        while (told := self.bus.poll_output()) is not None:
            if isinstance(told, Publish):
                self._fleet.published.append((self, told))
            elif isinstance(told, Subscribe):
                self._fleet.listeners.setdefault(told.subject, set()).add(self)
            elif isinstance(told, Unsubscribe):
                self._fleet.listeners[told.subject].discard(self)
            elif isinstance(told, Deliver):
                self.core.handle_from_elsewhere(told.sender, told.host, told.receiver, told.blob, now_us)


class Fleet:
    """Nodes, their clients, and the bus between them; `messages` counts what the bus carried to somebody."""

    def __init__(self, nodes: int) -> None:
        self.now_us = SECOND
        self.listeners: dict[str, set[Node]] = {}
        self.published: list[tuple[Node, Publish]] = []
        self.messages = self.bytes = self.unheard = 0
        self.nodes = [Node(self, number) for number in range(nodes)]

    def settle(self) -> None:
        """What is on the bus arrives."""
        while self.published:
            waiting, self.published = self.published, []
            for sender, message in waiting:
                heard = [node for node in self.listeners.get(message.subject, ()) if node is not sender]
                self.unheard += not heard
                for node in heard:
                    self.messages += 1
                    self.bytes += len(message.payload)
                    node.work(lambda node=node, message=message: node.bus.handle_message(message.payload, self.now_us))  # type: ignore[misc]
                    node.work(lambda: None)

    def pass_time(self, us: int) -> None:
        until_us = self.now_us + us
        while True:
            at_us = min(
                deadline.at_us
                for node in self.nodes
                for deadline in (node.core.poll_timeout(), node.bus.poll_timeout())
                if deadline is not None
            )
            if at_us > until_us:
                break
            self.now_us = max(self.now_us, at_us)
            for node in self.nodes:
                node.work(lambda node=node: node.core.handle_timeout(self.now_us))  # type: ignore[misc]
                node.work(lambda node=node: node.bus.handle_timeout(self.now_us))  # type: ignore[misc]
                for client_id in node.asked:
                    node.work(lambda node=node, client_id=client_id: node.core.handle_frame(client_id, None, self.now_us))  # type: ignore[misc]
                node.asked.clear()
            self.settle()
        self.now_us = until_us

    @property
    def cpu_s(self) -> float:
        return sum(node.cpu_s for node in self.nodes)


def rss_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def name_of(number: int) -> Identity:
    return Identity.of(f"peer {number}")


def log_in(fleet: Fleet, number: int, key: SigningKey) -> None:
    """Client `number` at its node, from an address of its own."""
    node, client_id = fleet.nodes[number % len(fleet.nodes)], number + 1
    host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    node.work(lambda: node.core.handle_connected(client_id, (host, 40_000), SERVER, fleet.now_us))
    node.work(lambda: node.core.handle_ready(client_id, fleet.now_us))
    hello = decode_server_message(node.said[-1].frame)
    node.said.clear()
    assert isinstance(hello, Hello)
    identity, nonce = name_of(number), bytes(32)
    text = login_text(server_nonce=hello.nonce, client_nonce=nonce, url=URL, identity=identity, public_key=key.public_bytes)
    frame = encode_client_message(Login(identity, key.public_bytes, nonce, URL, key.sign(text)))
    node.work(lambda: node.core.handle_frame(client_id, frame, fleet.now_us))
    node.work(lambda: None)
    node.said.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--minutes", type=int, default=2, help="of virtual time without calls")
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args()
    gc.freeze()
    fleet, key = Fleet(options.nodes), SigningKey.generate(Random(1).randbytes)
    before_kib = rss_kib()
    for number in range(options.clients):
        log_in(fleet, number, key)
        if number % options.nodes == options.nodes - 1:
            fleet.settle()
            fleet.pass_time(SECOND // config.SERVER_LOGINS_PER_S + 1)
    logins_s, grown_kib = fleet.cpu_s, rss_kib() - before_kib
    online = sum(node.core.clients for node in fleet.nodes)
    print(
        f"{online} of {options.clients} clients are in, at {options.nodes} nodes; {grown_kib / online:.1f} KiB each in the cores"
    )
    per_login, told = logins_s / online * 1e6, fleet.messages / online
    print(f"a login: {per_login:.0f} us of cores in all nodes together, {told:.1f} messages of the bus heard")

    idle_s, messages = fleet.cpu_s, fleet.messages
    fleet.pass_time(options.minutes * 60 * SECOND)
    spent_s = fleet.cpu_s - idle_s
    share = spent_s / (options.minutes * 60)
    print(f"idle: {share / online * 1e6:.2f} us a second for each client, {fleet.messages - messages} messages of the bus")

    rng = Random(2)
    calls_s, messages, size = fleet.cpu_s, fleet.messages, fleet.bytes
    for _ in range(options.calls):
        caller, other = rng.sample(range(options.clients), 2)
        for turn in range(SIGNALS_PER_CALL):
            one, two = (caller, other) if turn % 2 == 0 else (other, caller)
            node = fleet.nodes[one % options.nodes]
            frame = encode_client_message(CarriedSignal(name_of(two), SIGNAL))
            node.work(lambda node=node, one=one, frame=frame: node.core.handle_frame(one + 1, frame, fleet.now_us))
            fleet.settle()
        fleet.now_us += 2_000
    arrived = sum(node.core.counters["signals"] + node.core.counters["signals_from_elsewhere"] for node in fleet.nodes)
    per_signal = (fleet.cpu_s - calls_s) / (options.calls * SIGNALS_PER_CALL) * 1e6
    heard = (fleet.messages - messages) / options.calls
    print(f"a signal: {per_signal:.1f} us of cores from end to end; {arrived} of {options.calls * SIGNALS_PER_CALL} arrived")
    print(
        f"a call of {SIGNALS_PER_CALL} signals: {heard:.1f} messages, {(fleet.bytes - size) / options.calls:.0f} bytes of the bus"
    )


if __name__ == "__main__":
    main()
