"""A fleet in virtual time: nodes with their real cores, a bus with delays that can be torn, a store of names that can be away."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from random import Random

from peergram import config
from peergram.crypto.keys import SigningKey
from peergram.identity import Identity
from peergram.servers.fleet_core import (
    Deliver,
    Displace,
    DocumentTold,
    FleetCore,
    Load,
    NameTold,
    Publish,
    Subscribe,
    Unsubscribe,
)
from peergram.servers.fleet_names import LeasedNames
from peergram.servers.login_certificates import LoginCertificates
from peergram.servers.signaling_core import Arrived, Claimed, ClaimName, Elsewhere, FleetOutput, Left

from .harness import SECOND, Client, Server

STEP_US = 1_000


class Store:
    """What JetStream does for a fleet: a name belongs to the key that was first, until it was not written for long enough."""

    def __init__(self) -> None:
        self.is_away = False
        self.is_full = False
        self.asked = 0
        self._names: dict[Identity, tuple[bytes, bool, int]] = {}

    def claim(self, identity: Identity, key: bytes, may_create: bool, now_us: int, is_proven: bool = False) -> Claimed | None:
        self.asked += 1
        if self.is_away:
            return None
        owner, was_proven, until_us = self._names.get(identity, (key, False, 0))
        is_new = until_us <= now_us
        if is_new and (self.is_full or not may_create):
            return Claimed(None)
        if not is_new and owner != key:
            return Claimed(owner, was_proven)
        is_proven |= was_proven and not is_new
        kept_us = config.SERVER_NAME_KEPT_US if is_proven else config.SERVER_NAME_KEPT_SHORT_US
        self._names[identity] = (key, is_proven, now_us + kept_us)
        return Claimed(key, is_proven, is_new)


class Node:
    """One server of the fleet."""

    def __init__(self, world: FleetWorld, name: str, certificates: LoginCertificates | None, offset_us: int) -> None:
        self.name = name
        self.world = world
        self.server = Server(
            now_us=world.now_us, on_fleet=self._take, leases=LeasedNames(1_000) if certificates is None else None,
            certificates=certificates,
        )  # fmt: skip
        self.fleet = FleetCore(
            name=name, entropy=Random(name).randbytes, load=self.load, now_us=world.now_us,
            wall_offset_us=offset_us, newer_key_wins=certificates is not None,
        )  # fmt: skip
        self.subjects: set[str] = set()
        self.documents: list[bytes] = []
        self.published: list[str] = []
        self.is_cut_off = False
        self.has_crashed = False

    def load(self) -> Load:
        return Load(self.server.core.clients, 3, 4_000, self.server.core.is_draining)

    def log_in(self, name: str, key: SigningKey | None = None, host: str = "192.0.2.1") -> Client:
        client = self.server.connect(host)
        client.log_in(name, key)
        return client

    def log_in_many(self, count: int) -> list[Client]:
        """As fast as logins are taken for ever, each from an address of its own."""
        clients = []
        for number in range(count):
            clients.append(self.log_in(f"one of many {number}", host=f"10.{number // 250}.{number % 250}.1"))
            self.world.pass_time(SECOND // config.SERVER_LOGINS_PER_S + 1)
        return clients

    def _take(self, output: FleetOutput) -> None:
        now_us = self.world.now_us
        if isinstance(output, Arrived):
            self.fleet.handle_arrived(output.identity, output.public_key, now_us)
        elif isinstance(output, Left):
            self.fleet.handle_left(output.identity)
        elif isinstance(output, Elsewhere):
            self.fleet.carry(output.sender, output.host, output.receiver, output.blob, is_here=output.is_here)
        elif isinstance(output, ClaimName):
            claimed = self.world.store.claim(output.identity, output.public_key, output.may_create, now_us)
            self._tell_written(output.identity, output.public_key, claimed)
            self.world.later(0, partial(self.server.core.handle_claimed, output.client_id, claimed), self)
        else:
            claimed = self.world.store.claim(output.identity, output.public_key, True, now_us, output.is_proven)
            if claimed is not None:
                self._tell_written(output.identity, output.public_key, claimed)
                self.world.later(0, partial(self.server.core.handle_renewed, output.identity, claimed), self)

    def _tell_written(self, identity: Identity, key: bytes, claimed: Claimed | None) -> None:
        if claimed is not None and claimed.owner == key:
            self.fleet.tell_name(identity, key, claimed.is_proven)

    def drain(self) -> None:
        self.server.drain()
        while (output := self.fleet.poll_output()) is not None:
            core, now_us = self.server.core, self.world.now_us
            if isinstance(output, Subscribe):
                self.subjects.add(output.subject)
            elif isinstance(output, Unsubscribe):
                self.subjects.remove(output.subject)
            elif isinstance(output, Publish):
                self.published.append(output.subject)
                self.world.publish(self, output)
            elif isinstance(output, Deliver):
                core.handle_from_elsewhere(output.sender, output.host, output.receiver, output.blob, now_us)
            elif isinstance(output, Displace):
                core.handle_displaced(output.identity, output.has_same_key, now_us)
            elif isinstance(output, NameTold):
                core.learn_name(output.identity, output.public_key, output.is_proven, now_us)
            else:
                assert isinstance(output, DocumentTold)
                self.documents.append(output.content)
            self.server.drain()


class FleetWorld:
    """`delay_us` draws how long a message is under way, so that one may overtake another; `clocks_us` how wrong a clock is."""

    def __init__(
        self,
        names: Iterable[str] = ("a", "b"),
        *,
        delay_us: Callable[[], int] = lambda: 300,
        authority: LoginCertificates | None = None,
        clocks_us: Callable[[], int] = lambda: 0,
    ) -> None:
        self.now_us = SECOND
        self.store = Store()
        self.delay_us = delay_us
        self._order = count()
        self._events: list[tuple[int, int, Node, Callable[[int], None]]] = []
        self.nodes = [Node(self, name, authority, clocks_us()) for name in names]
        self.pass_time(SECOND)

    def publish(self, sender: Node, message: Publish) -> None:
        if sender.is_cut_off:
            return
        for node in self.nodes:
            if node is not sender and message.subject in node.subjects and not node.is_cut_off and not node.has_crashed:
                self.later(self.delay_us(), partial(node.fleet.handle_message, message.payload), node)

    def later(self, delay_us: int, do: Callable[[int], None], node: Node) -> None:
        heapq.heappush(self._events, (self.now_us + delay_us, next(self._order), node, do))

    def pass_time(self, us: int) -> None:
        """Everything happens when it is due."""
        until_us = self.now_us + us
        while True:
            for node in self.nodes:
                node.drain()
            due = [
                deadline.at_us
                for node in self.nodes
                for deadline in (node.server.core.poll_timeout(), node.fleet.poll_timeout())
                if deadline is not None and not node.has_crashed
            ]
            at_us = max(self.now_us, min([*due, *(self._events[0][:1] if self._events else ())]))
            if at_us > until_us:
                break
            self._go_to(at_us)
            while self._events and self._events[0][0] <= at_us:
                _, _, node, do = heapq.heappop(self._events)
                if not node.has_crashed:
                    do(at_us)
            for node in self.nodes:
                if not node.has_crashed:
                    node.server.core.handle_timeout(at_us)
                    node.fleet.handle_timeout(at_us)
        self._go_to(until_us)

    def skip_time(self, us: int) -> None:
        """All of them stand still for so long."""
        self._go_to(self.now_us + us)
        self.pass_time(SECOND)

    def _go_to(self, at_us: int) -> None:
        self.now_us = at_us
        for node in self.nodes:
            node.server.now_us = at_us

    def crash(self, node: Node) -> None:
        """At once, without a word to anybody."""
        node.has_crashed = True
        node.subjects.clear()

    def mend(self, *nodes: Node) -> None:
        """They are on the bus again."""
        for node in nodes:
            node.is_cut_off = False
            node.fleet.handle_bus_up(self.now_us)

    def places_of(self, name: str) -> list[str]:
        """The nodes at which somebody has this identity."""
        return [node.name for node in self.nodes if Identity.of(name) in node.fleet._logins and not node.has_crashed]
