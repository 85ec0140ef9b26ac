"""What the nodes of a fleet say to each other on their bus, without the bus.

A node keeps no list of who is where: for each client that is logged in it listens at one subject, made of a hash of the identity,
and a signal for somebody who is not here is published at his. The bus knows where it is wanted. What comes from the bus is
believed, so nobody but the nodes may write there.

Of two logins with one identity the older one has to go, and of any number all but one, whatever crossed or was late on the way.
So logins have an order that all nodes see alike: by the time on a clock that the fleet has in common, and by a random token. The
clock is that of the node whose own is ahead of all; the others learn from what they hear how far theirs is behind.

The runner reports arrivals, departures, signals and messages, and then takes `poll_output` until it is None.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from peergram import config as limits
from peergram.errors import UsageError, WireError
from peergram.identity import Identity
from peergram.timing import Deadline, TimerTable
from peergram.wire.cursor import Cursor

NODES_SUBJECT = "peergram.nodes"
"""Where every node listens."""
NOBODYS_SUBJECT = "peergram.to.nobody"
"""Where nobody listens."""
VERSION = 1
TOKEN_BYTES = 8
_SIGNAL, _HERE, _BEAT, _NAME, _DOCUMENT = 1, 2, 3, 4, 5
_TIME_MAX_US = 1 << 62
_DRAINING = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """Which bus, and as whom. `urls` are brokers of one NATS cluster; a node needs one of them to start."""

    urls: tuple[str, ...] = field(repr=False)
    """Which may have passwords in them."""
    node: str
    keeps_names: bool = True
    """Whether the fleet keeps names together, which takes JetStream; without, each node decides by itself."""
    newer_key_wins: bool = False
    """Whether an authority says whose a name is, so that it may go over to another key."""
    credentials: Path | None = None
    """A NATS credentials file."""
    login: Path | None = None
    """A file with `USER PASSWORD`."""
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None


@dataclass(slots=True)
class Subscribe:
    """Listen at this subject."""

    subject: str


@dataclass(slots=True)
class Unsubscribe:
    """Listen there no more."""

    subject: str


@dataclass(slots=True)
class Publish:
    """Say this to whoever listens at the subject, but not to ourselves."""

    subject: str
    payload: bytes


@dataclass(slots=True)
class Deliver:
    """A signal for one of our clients."""

    sender: Identity
    host: bytes
    receiver: Identity
    blob: bytes


@dataclass(slots=True)
class Displace:
    """This client of ours has to go: the identity is at another node now."""

    identity: Identity
    has_same_key: bool


@dataclass(slots=True)
class NameTold:
    """Another node has written into the store whose this name is."""

    identity: Identity
    public_key: bytes
    is_proven: bool


@dataclass(slots=True)
class DocumentTold:
    """Another node has a newer document, such as a relay map."""

    version: int
    content: bytes


Output = Subscribe | Unsubscribe | Publish | Deliver | Displace | NameTold | DocumentTold


@dataclass(frozen=True, slots=True)
class Load:
    """How much a node has to do; what others see of it."""

    clients: int = 0
    relay_allocations: int = 0
    relay_bytes_per_s: int = 0
    is_draining: bool = False


@dataclass(slots=True)
class Node:
    """Another node, as it was heard last."""

    name: str
    load: Load
    heard_at_us: int


@dataclass(slots=True)
class _Login:
    stamp_us: int
    """On the fleet's clock."""
    token: bytes
    public_key: bytes


@dataclass(slots=True)
class _Beat:
    instance: bytes
    clock_us: int
    name: str
    load: Load
    version: int


def subject_of(identity: Identity) -> str:
    """Where signals for this identity are published."""
    return f"peergram.to.{name_key(identity)}"


def name_key(identity: Identity) -> str:
    """Stands for an identity where only letters and digits may stand."""
    return hashlib.sha256(identity.text_bytes).digest()[:16].hex()


def check_node_name(text: str) -> str:
    """The name of a node as operators write it; raises UsageError."""
    if not text or len(text.encode()) > limits.FLEET_NODE_NAME_BYTES_MAX or not text.isprintable():
        raise UsageError(f"--node {text!r}: give a name of 1 to {limits.FLEET_NODE_NAME_BYTES_MAX} bytes")
    return text


class FleetCore:
    """One node's part. `counters` only grow; `nodes` are the others that were heard lately, by their instance."""

    def __init__(
        self,
        *,
        name: str,
        entropy: Callable[[int], bytes],
        load: Callable[[], Load],
        now_us: int,
        wall_offset_us: int,
        newer_key_wins: bool = False,
    ) -> None:
        """`load` tells what goes into the next beat; `wall_offset_us` makes our times microseconds since 1970, more or less."""
        self.counters: Counter[str] = Counter()
        self.nodes: dict[bytes, Node] = {}
        self.document = b""
        self.document_version = 0
        self._name = name
        self._instance = entropy(TOKEN_BYTES)
        self._entropy = entropy
        self._load = load
        self._newer_key_wins = newer_key_wins
        self._clock_offset_us = wall_offset_us
        self._logins: dict[Identity, _Login] = {}
        self._to_announce: OrderedDict[Identity, None] = OrderedDict()
        self._outputs: deque[Output] = deque([Subscribe(NODES_SUBJECT)])
        self._timers = TimerTable()
        self._timers.set("beat", now_us)

    # What happens here

    def handle_arrived(self, identity: Identity, public_key: bytes, now_us: int) -> None:
        """A client of ours has logged in."""
        login = self._logins.get(identity)
        if login is None:
            self._outputs.append(Subscribe(subject_of(identity)))
        self._logins[identity] = _Login(now_us + self._clock_offset_us, self._entropy(TOKEN_BYTES), public_key)
        self._announce(identity)

    def handle_left(self, identity: Identity) -> None:
        """No client of ours has this identity any more."""
        if self._logins.pop(identity, None) is not None:
            self._to_announce.pop(identity, None)
            self._outputs.append(Unsubscribe(subject_of(identity)))

    def carry(self, sender: Identity, host: bytes, receiver: Identity, blob: bytes, *, is_here: bool) -> None:
        """A signal of a client of ours. One for another client of ours costs the bus as much, and reaches nobody (S6)."""
        subject = subject_of(receiver)
        self.counters["published"] += 1
        head = bytes((VERSION, _SIGNAL, len(host))) + host + _named(sender) + _named(receiver)
        self._outputs.append(Publish(NOBODYS_SUBJECT if is_here else subject, head + blob))

    def tell_name(self, identity: Identity, public_key: bytes, is_proven: bool) -> None:
        """We have written into the store whose this name is."""
        self._publish_to_nodes(_NAME, public_key + bytes((is_proven,)) + _named(identity))

    def share(self, content: bytes, version: int) -> None:
        """A document for all nodes; one that is newer than what they have replaces it. Raises UsageError if it is too large."""
        if len(content) > limits.FLEET_DOCUMENT_BYTES_MAX:
            raise UsageError(f"{len(content)} bytes: nodes share at most {limits.FLEET_DOCUMENT_BYTES_MAX}")
        if version > self.document_version:
            self.document, self.document_version = content, version
            self._publish_document()

    def handle_bus_up(self, now_us: int) -> None:
        """There is a bus, or there is one again: others may have missed who is here."""
        self._to_announce.update(dict.fromkeys(self._logins))
        self._timers.set("announce", now_us)
        self._timers.set("beat", now_us)

    def handle_timeout(self, now_us: int) -> None:
        """Beats, and announcements that were put off."""
        due = self._timers.pop_due(now_us)
        if "announce" in due:
            for _ in range(min(limits.FLEET_ANNOUNCED_AT_ONCE, len(self._to_announce))):
                identity, _ = self._to_announce.popitem(last=False)
                self._announce(identity)
            if self._to_announce:
                self._timers.set("announce", now_us + limits.FLEET_ANNOUNCE_US)
        if "beat" in due:
            self._beat(now_us)
            self._timers.set("beat", now_us + limits.FLEET_BEAT_US)
            for instance, node in list(self.nodes.items()):
                if now_us - node.heard_at_us > limits.FLEET_NODE_LOST_US:
                    del self.nodes[instance]

    def poll_output(self) -> Output | None:
        """What to do next."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`."""
        return self._timers.next()

    # What comes from the bus

    def handle_message(self, payload: bytes, now_us: int) -> None:
        """Never raises, whatever the bytes are; what cannot be read is counted."""
        self.counters["received"] += 1
        try:
            cursor = Cursor(payload)
            version, kind = cursor.integer(1), cursor.integer(1)
            handle = _HANDLERS.get(kind) if version == VERSION else None
            if handle is None:
                raise WireError(f"version {version}, kind {kind}")
            handle(self, cursor, now_us)
        except WireError:
            self.counters["unreadable"] += 1

    def _handle_signal(self, cursor: Cursor, now_us: int) -> None:
        host = cursor.take(cursor.integer(1))
        sender, receiver = _take_identity(cursor), _take_identity(cursor)
        if cursor.left > limits.CARRIED_BYTES_MAX:
            raise WireError(f"a signal of {cursor.left} bytes")
        self._outputs.append(Deliver(sender, host, receiver, cursor.rest()))

    def _handle_here(self, cursor: Cursor, now_us: int) -> None:
        stamp_us, token = cursor.integer(8, "big"), cursor.take(TOKEN_BYTES)
        public_key, identity = cursor.take(32), _take_last_identity(cursor)
        self._set_clock(stamp_us, now_us)
        login = self._logins.get(identity)
        if login is None or login.token == token:
            return
        has_same_key = public_key == login.public_key
        is_theirs_newer = (stamp_us, token) > (login.stamp_us, login.token)
        if is_theirs_newer == (has_same_key or self._newer_key_wins):
            self.counters["displaced"] += 1
            self._outputs.append(Displace(identity, has_same_key))
        else:
            self._announce(identity)

    def _handle_beat(self, cursor: Cursor, now_us: int) -> None:
        beat = _read_beat(cursor)
        self._set_clock(beat.clock_us, now_us)
        if beat.instance not in self.nodes and len(self.nodes) >= limits.FLEET_NODES_MAX:
            raise WireError("more nodes than any fleet has")
        is_new = beat.instance not in self.nodes
        self.nodes[beat.instance] = Node(beat.name, beat.load, now_us)
        if beat.version < self.document_version:
            self._publish_document()
        if is_new:
            # So that a newcomer need not wait for it.
            self._timers.set_earlier("beat", now_us + limits.FLEET_BEAT_US // 10)

    def _handle_name(self, cursor: Cursor, now_us: int) -> None:
        public_key, is_proven = cursor.take(32), bool(cursor.integer(1))
        self._outputs.append(NameTold(_take_last_identity(cursor), public_key, is_proven))

    def _handle_document(self, cursor: Cursor, now_us: int) -> None:
        version, content = cursor.integer(8, "big"), cursor.rest()
        if len(content) > limits.FLEET_DOCUMENT_BYTES_MAX:
            raise WireError(f"a document of {len(content)} bytes")
        if version > self.document_version:
            self.document, self.document_version = content, version
            self._outputs.append(DocumentTold(version, content))

    # What goes

    def _announce(self, identity: Identity) -> None:
        login = self._logins[identity]
        fields = login.stamp_us.to_bytes(8, "big") + login.token + login.public_key + _named(identity)
        self._outputs.append(Publish(subject_of(identity), bytes((VERSION, _HERE)) + fields))

    def _set_clock(self, clock_us: int, now_us: int) -> None:
        """It was at least so late when this was said."""
        if clock_us > _TIME_MAX_US:
            raise WireError("a time after the end of all times")
        self._clock_offset_us = max(self._clock_offset_us, clock_us - now_us)

    def _publish_to_nodes(self, kind: int, fields: bytes) -> None:
        self._outputs.append(Publish(NODES_SUBJECT, bytes((VERSION, kind)) + fields))

    def _publish_document(self) -> None:
        self._publish_to_nodes(_DOCUMENT, self.document_version.to_bytes(8, "big") + self.document)

    def _beat(self, now_us: int) -> None:
        load, name = self._load(), self._name.encode()
        flags = _DRAINING if load.is_draining else 0
        numbers = load.clients.to_bytes(4, "big") + load.relay_allocations.to_bytes(4, "big")
        numbers += load.relay_bytes_per_s.to_bytes(8, "big") + self.document_version.to_bytes(8, "big")
        clock = (now_us + self._clock_offset_us).to_bytes(8, "big")
        self._publish_to_nodes(_BEAT, self._instance + clock + bytes((flags,)) + numbers + bytes((len(name),)) + name)


def _named(identity: Identity) -> bytes:
    text = identity.text_bytes
    return bytes((len(text),)) + text


def _take_identity(cursor: Cursor) -> Identity:
    try:
        return Identity.parse_bytes(cursor.take(cursor.integer(1)))
    except UsageError as error:
        raise WireError(f"a name that is none: {error}") from None


def _take_last_identity(cursor: Cursor) -> Identity:
    identity = _take_identity(cursor)
    if cursor.left:
        raise WireError(f"{cursor.left} bytes too many")
    return identity


def _read_beat(cursor: Cursor) -> _Beat:
    instance, clock_us, flags = cursor.take(TOKEN_BYTES), cursor.integer(8, "big"), cursor.integer(1)
    clients, allocations, relayed = cursor.integer(4, "big"), cursor.integer(4, "big"), cursor.integer(8, "big")
    version = cursor.integer(8, "big")
    name = cursor.take(cursor.integer(1)).decode("utf-8", "replace")
    if cursor.left or len(name) > limits.FLEET_NODE_NAME_BYTES_MAX:
        raise WireError("a beat that is none")
    return _Beat(instance, clock_us, name, Load(clients, allocations, relayed, bool(flags & _DRAINING)), version)


_HANDLERS: dict[int, Callable[[FleetCore, Cursor, int], None]] = {
    _SIGNAL: FleetCore._handle_signal,
    _HERE: FleetCore._handle_here,
    _BEAT: FleetCore._handle_beat,
    _NAME: FleetCore._handle_name,
    _DOCUMENT: FleetCore._handle_document,
}
