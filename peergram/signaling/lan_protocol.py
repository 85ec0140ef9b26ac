"""Signals on the local network: datagrams to everybody near, each addressed to one identity, kept by nobody else.

Format (docs/signaling.md), integers big-endian:

    magic "pgL" | version 1 | sender's instance 8 | number 4 | index 1 | count 1 | to length 1 | from length 1 | to | from | piece

A signal travels in `count` pieces. `instance` is random and new in each process, so that a process knows its own datagrams.
Nothing here is authentic: names are claims, and what a signal carries is proven by the certificates inside.

`LanCore` decides what goes where. Whoever was heard gets further signals at the socket he was heard from, and by multicast only
once a second: so somebody else who claims his name, or a new socket of his, delays him by one retry of the rendezvous at most.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from peergram.config import (
    CARRIED_BYTES_MAX,
    LAN_COPIES_KEPT,
    LAN_DATAGRAM_BYTES_MAX,
    LAN_HOST_BURST,
    LAN_HOST_PER_S,
    LAN_MULTICAST_INTERVAL_US,
    LAN_PEERS_KEPT,
    LAN_PIECES_MAX,
    LAN_PLACE_US,
    LAN_TOTAL_BURST,
    LAN_TOTAL_PER_S,
    LAN_UNFINISHED_MAX,
    LAN_UNFINISHED_PER_HOST_MAX,
    LAN_UNFINISHED_US,
    SIGNALS_PAIR_BURST,
    SIGNALS_PAIR_PER_S,
)
from peergram.errors import UsageError, WireError
from peergram.identity import UNKNOWN_BYTES_MAX, Identity
from peergram.signaling.rates import TokenBuckets
from peergram.wire.cursor import Cursor

INSTANCE_BYTES = 8
MAGIC = b"pgL\x01"

_HEAD = struct.Struct("!4s8sIBBBB")

Place = tuple[str | int, ...]
"""A socket's address as the system writes it, the host first; values to compare and to send to, no more."""


@dataclass(slots=True)
class LanDatagram:
    """One piece of a signal."""

    instance: bytes
    number: int
    index: int
    count: int
    to: bytes
    sender: bytes
    piece: bytes


def encode_lan_datagram(datagram: LanDatagram) -> bytes:
    """The bytes of one piece, whose sizes the caller has checked."""
    lengths = len(datagram.to), len(datagram.sender)
    head = _HEAD.pack(MAGIC, datagram.instance, datagram.number, datagram.index, datagram.count, *lengths)
    return head + datagram.to + datagram.sender + datagram.piece


def decode_lan_datagram(data: bytes) -> LanDatagram:
    """Raises WireError for what is not a datagram of ours; names are not looked into."""
    cursor = Cursor(data)
    magic, instance, number, index, count, to_bytes, sender_bytes = _HEAD.unpack(cursor.take(_HEAD.size))
    if magic != MAGIC or len(data) > LAN_DATAGRAM_BYTES_MAX:
        raise WireError("not a LAN signal of this version")
    if not index < count <= LAN_PIECES_MAX:
        raise WireError(f"piece {index} of {count}")
    if not 1 <= to_bytes <= UNKNOWN_BYTES_MAX or not 1 <= sender_bytes <= UNKNOWN_BYTES_MAX:
        raise WireError("a name is empty or too long")
    to, sender = cursor.take(to_bytes), cursor.take(sender_bytes)
    return LanDatagram(instance, number, index, count, to, sender, cursor.rest())


def split_signal(instance: bytes, number: int, to: Identity, sender: Identity, signal: bytes) -> list[bytes]:
    """The datagrams of one signal of at most CARRIED_BYTES_MAX bytes, in order."""
    to_text, sender_text = to.text_bytes, sender.text_bytes
    piece_bytes = LAN_DATAGRAM_BYTES_MAX - _HEAD.size - len(to_text) - len(sender_text)
    starts = range(0, max(len(signal), 1), piece_bytes)
    return [
        encode_lan_datagram(
            LanDatagram(
                instance, number, index, len(starts), to_text, sender_text, signal[start : start + piece_bytes]
            )
        )
        for index, start in enumerate(starts)
    ]  # fmt: skip


@dataclass(slots=True)
class LanSend:
    """Datagrams to send, in order: to `place` if there is one, and by multicast on every interface if asked."""

    datagrams: list[bytes]
    place: Place | None
    multicast: bool


@dataclass(slots=True)
class _Peer:
    place: Place | None = None
    heard_at_us: int = 0
    multicast_at_us: int | None = None


@dataclass(slots=True)
class _Unfinished:
    begun_at_us: int
    count: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    held_bytes: int = 0


class LanCore:
    """What one process knows of the local network. `dropped` counts what came to nothing, by reason."""

    def __init__(self, identity: Identity, entropy: Callable[[int], bytes]) -> None:
        self.identity = identity
        self.dropped: Counter[str] = Counter()
        self._instance = entropy(INSTANCE_BYTES)
        self._number = 0
        self._own_text = identity.text_bytes
        self._peers: OrderedDict[Identity, _Peer] = OrderedDict()
        self._unfinished: OrderedDict[tuple[Place, bytes, int], _Unfinished] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._sent_to = TokenBuckets(SIGNALS_PAIR_PER_S, SIGNALS_PAIR_BURST, LAN_PEERS_KEPT)
        self._from_sender = TokenBuckets(SIGNALS_PAIR_PER_S, SIGNALS_PAIR_BURST, LAN_PEERS_KEPT)
        self._from_host = TokenBuckets(LAN_HOST_PER_S, LAN_HOST_BURST, LAN_PEERS_KEPT)
        self._from_all = TokenBuckets(LAN_TOTAL_PER_S, LAN_TOTAL_BURST, 1)

    @property
    def peers_known(self) -> int:
        """How many peers are remembered."""
        return len(self._peers)

    def send(self, to: Identity, signal: bytes, now_us: int) -> LanSend | None:
        """How to send a signal; None if it may not be sent, being too large or one too many."""
        if len(signal) > CARRIED_BYTES_MAX:
            self.dropped["sent: too large"] += 1
            return None
        if not self._sent_to.take(to, now_us):
            self.dropped["sent: too many to one peer"] += 1
            return None
        peer = self._peer(to)
        place = peer.place if now_us - peer.heard_at_us <= LAN_PLACE_US else None
        multicast = place is None or peer.multicast_at_us is None or now_us - peer.multicast_at_us >= LAN_MULTICAST_INTERVAL_US
        if multicast:
            peer.multicast_at_us = now_us
        self._number = (self._number + 1) & 0xFFFF_FFFF
        return LanSend(split_signal(self._instance, self._number, to, self.identity, signal), place, multicast)

    def handle_datagram(self, place: Place, data: bytes, now_us: int) -> tuple[Identity, bytes] | None:
        """Who sent what to us, once a whole signal is here; never raises, whatever the bytes are."""
        at = _HEAD.size
        if not data.startswith(self._own_text, at):
            # What is for somebody else, most of the traffic of a busy network, costs no more than this.
            self.dropped["not for us"] += 1
            return None
        try:
            datagram = decode_lan_datagram(data)
            sender = Identity.parse_bytes(datagram.sender)
        except (WireError, UsageError):
            self.dropped["malformed"] += 1
            return None
        if datagram.to != self._own_text or datagram.instance == self._instance:
            self.dropped["not for us"] += 1
            return None
        signal = datagram.piece if datagram.count == 1 else self._joined(place, datagram, now_us)
        if signal is None or not self._is_new(datagram, signal) or not self._may_speak(place[0], sender, now_us):
            return None
        peer = self._peer(sender)
        peer.place, peer.heard_at_us = place, now_us
        return sender, signal

    def _peer(self, identity: Identity) -> _Peer:
        """What is known of him; he counts as used now."""
        peer = self._peers.setdefault(identity, _Peer())
        self._peers.move_to_end(identity)
        if len(self._peers) > LAN_PEERS_KEPT:
            self._peers.popitem(last=False)
        return peer

    def _joined(self, place: Place, datagram: LanDatagram, now_us: int) -> bytes | None:
        """The whole signal, if this piece completes it."""
        key = place, datagram.instance, datagram.number
        unfinished = self._unfinished.get(key)
        if unfinished is None:
            self._make_room(place[0], now_us)
            unfinished = self._unfinished[key] = _Unfinished(now_us, datagram.count)
        if datagram.count != unfinished.count or datagram.index in unfinished.pieces:
            self.dropped["repeated"] += 1
            return None
        unfinished.held_bytes += len(datagram.piece)
        unfinished.pieces[datagram.index] = datagram.piece
        if unfinished.held_bytes > CARRIED_BYTES_MAX:
            del self._unfinished[key]
            self.dropped["too large"] += 1
            return None
        if len(unfinished.pieces) < unfinished.count:
            return None
        del self._unfinished[key]
        return b"".join(unfinished.pieces[index] for index in range(unfinished.count))

    def _make_room(self, host: str | int, now_us: int) -> None:
        """For one more unfinished signal: the old ones go, then the oldest of a host that has too many, then the oldest."""
        while self._unfinished:
            oldest = next(iter(self._unfinished))
            if now_us - self._unfinished[oldest].begun_at_us < LAN_UNFINISHED_US:
                break
            del self._unfinished[oldest]
            self.dropped["never completed"] += 1
        of_host = [key for key in self._unfinished if key[0][0] == host]
        if len(of_host) >= LAN_UNFINISHED_PER_HOST_MAX:
            del self._unfinished[of_host[0]]
            self.dropped["never completed"] += 1
        elif len(self._unfinished) >= LAN_UNFINISHED_MAX:
            self._unfinished.popitem(last=False)
            self.dropped["never completed"] += 1

    def _is_new(self, datagram: LanDatagram, signal: bytes) -> bool:
        """Whether this is the first copy. Copies come by several interfaces, and by unicast as well as multicast.

        The whole content decides, not the number alone: or somebody who sends numbers of others first could silence them.
        """
        digest = hashlib.blake2b(
            b"%s%d %s\0%s" % (datagram.instance, datagram.number, datagram.sender, signal), digest_size=16
        ).digest()
        if digest in self._seen:
            self.dropped["repeated"] += 1
            return False
        self._seen[digest] = None
        if len(self._seen) > LAN_COPIES_KEPT:
            self._seen.popitem(last=False)
        return True

    def _may_speak(self, host: str | int, sender: Identity, now_us: int) -> bool:
        """The narrowest limit first, so that what one sender has too much takes nothing from the others."""
        if (
            self._from_sender.take((host, sender), now_us)
            and self._from_host.take(host, now_us)
            and self._from_all.take(None, now_us)
        ):
            return True
        self.dropped["too many"] += 1
        return False
