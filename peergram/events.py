"""What an application is told, and what it sends and receives: the values that cross the edge of the library."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

from peergram.identity import Identity


class SendFlags(IntFlag):
    """How to send one message (`k_nSteamNetworkingSend_*`)."""

    UNRELIABLE = 0
    NO_NAGLE = 1
    UNRELIABLE_NO_NAGLE = 1
    NO_DELAY = 4
    UNRELIABLE_NO_DELAY = 5
    RELIABLE = 8
    RELIABLE_NO_NAGLE = 9
    USE_CURRENT_THREAD = 16
    AUTO_RESTART_BROKEN_SESSION = 32


class ConnectionState(IntEnum):
    """State of a session or connection (`ESteamNetworkingConnectionState`); negative ones never leave the library."""

    NONE = 0
    CONNECTING = 1
    FINDING_ROUTE = 2
    CONNECTED = 3
    CLOSED_BY_PEER = 4
    PROBLEM_DETECTED_LOCALLY = 5
    FIN_WAIT = -1
    LINGER = -2
    DEAD = -3


class InfoFlags(IntFlag):
    """Properties of a connection (`k_nSteamNetworkConnectionInfoFlags_*`)."""

    NONE = 0
    UNAUTHENTICATED = 1
    UNENCRYPTED = 2
    LOOPBACK_BUFFERS = 4
    FAST = 8
    RELAYED = 16
    DUAL_WIFI = 32


class Message(NamedTuple):
    """One message received: who sent it, on which channel, and what (`SteamNetworkingMessage_t`)."""

    identity: Identity
    channel: int
    payload: bytes
    message_number: int
    """Counts what this peer sent on the same lane."""
    reliable: bool
    received_at_us: int
    """By this machine's monotonic clock, in microseconds."""

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return len(self.payload)

    @property
    def flags(self) -> SendFlags:
        """RELIABLE if it was sent so; nothing else is known to the receiver."""
        return SendFlags.RELIABLE if self.reliable else SendFlags.UNRELIABLE

    def __repr__(self) -> str:
        kind = "reliable" if self.reliable else "unreliable"
        return (
            f"<Message {kind} #{self.message_number} from {self.identity} on channel {self.channel}: {len(self.payload)} bytes>"
        )


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """Reliable messages that were sent and whose arrival nobody confirmed when their session ended."""

    messages: int = 0
    bytes: int = 0


class Receipt:
    """What becomes of one reliable message: look at `state` at any time.

    `pending` turns once into `delivered` (the peer's library has all of it, whether or not his program has read it) or
    `unconfirmed` (its session ended before anybody confirmed that; it may have arrived). Only the library changes it.
    """

    __slots__ = ("channel", "debug", "identity", "reason", "state")

    def __init__(self, identity: Identity, channel: int) -> None:
        self.identity = identity
        """Whom it was sent to, by the name that the send used."""
        self.channel = channel
        self.state = "pending"
        self.reason = 0
        """Why its session ended (`EndReason`), once it is unconfirmed."""
        self.debug = ""
        """The same as a sentence."""

    def __repr__(self) -> str:
        why = f": {self.debug}" if self.debug else ""
        return f"<Receipt {self.state}, to {self.identity} on channel {self.channel}{why}>"


@dataclass(frozen=True, slots=True)
class Delivered:
    """The fate of a message that was sent with a receipt is known: `receipt.state` says which."""

    identity: Identity
    receipt: Receipt


@dataclass(slots=True)
class DroppedDatagrams:
    """How many datagrams came to nothing since the endpoint was made, by reason. Large numbers mean a flood, or a bad path."""

    short: int = 0
    """Too short to be anything (fewer than 5 bytes)."""
    malformed: int = 0
    """No packet of the protocol: damaged, or made up."""
    unknown: int = 0
    """About a connection that we do not have, or not with that address."""
    refused: int = 0
    """Requests to connect whose challenge, certificate or version is not good."""
    forged: int = 0
    """For a connection of ours, but not encrypted with its key."""
    repeated: int = 0
    """Their number came before, or is too old to tell; mostly genuine once."""
    violating: int = 0
    """Genuine, but against the protocol; each ended its connection."""


@dataclass(frozen=True, slots=True)
class SessionRequested:
    """A stranger sent us something; answer by accepting, sending to him, or not at all."""

    identity: Identity
    proven_by: str
    """What makes the identity more than a claim: `key` (it is the key), `certificate` (an authority of ours vouches for it),
    `pinned` (the key is the one it is known with), `first_contact` (the key will be remembered), or `nothing`."""
    key_fingerprint: str
    """SHA-256 of the certificate's key, as OpenSSH prints it (`SHA256:` and base64)."""
    address: str = ""
    """Where he sends from."""
    is_outgoing: bool = False
    """Whether we called him ourselves, and `pin_outgoing="ask"` wants to know whether this is his key."""


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """A session ended in a way the application must know: with what was lost, why, and what may help."""

    identity: Identity
    reason: int
    state: ConnectionState
    debug: str
    unconfirmed: Unconfirmed = Unconfirmed()


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """Packets to a peer that was called by identity take another way from now on, or find none at the moment."""

    identity: Identity
    route: str
    """`local` (same network), `direct`, `relayed`, or empty: none is known, and one is looked for."""
    address: str
    """Where packets go; empty where a relay hides it."""


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """Somebody asked for a session under a name that is known with another key, and was kept out."""

    identity: Identity
    """The name used."""
    key_fingerprint: str
    """Of his key."""
    text: str
    """Both keys, what that may mean, and the command that accepts the new one."""


class Availability(IntEnum):
    """How a part of the network stands (`ESteamNetworkingAvailability`); negative: something is wrong."""

    CANNOT_TRY = -102
    """What it needs is missing."""
    FAILED = -101
    """It was tried for long enough, and never worked."""
    PREVIOUSLY = -100
    """It worked before, and does not now."""
    RETRYING = -10
    UNKNOWN = 0
    NEVER_TRIED = 1
    WAITING = 2
    """What it needs is on its way."""
    ATTEMPTING = 3
    CURRENT = 100
    """It works."""


@dataclass(frozen=True, slots=True)
class RelayNetworkStatus:
    """How the relay network stands (`SteamRelayNetworkStatus_t`)."""

    availability: Availability
    is_measuring: bool
    """Whether pings are being measured now."""
    config: Availability
    """Of the relay map."""
    any_relay: Availability
    """Of the relays themselves."""
    debug: str
    """One sentence for people."""


@dataclass(frozen=True, slots=True)
class RelayNetworkChanged:
    """The relay network stands differently from before."""

    identity: Identity
    """Our own."""
    status: RelayNetworkStatus


Event = SessionRequested | SessionFailed | RouteChanged | PeerRefused | Delivered | RelayNetworkChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionInfo:
    """What is known about a session's connection (`SteamNetConnectionInfo_t`)."""

    identity: Identity | None
    """Who the peer says he is by his certificate; None while unknown."""
    address: str
    """The peer's address and port, empty while unknown."""
    state: ConnectionState
    end_reason: int
    end_debug: str
    description: str
    flags: InfoFlags
    own_peer: bool
    """Whether the peer is this library too (promise 6)."""
    proven_by: str
    """As in `SessionRequested`."""
    key_fingerprint: str
    route: str = ""
    """How packets go to a peer that was found by identity: `local`, `direct` or `relayed`; empty while there is no way, and for
    peers dialed by address."""
    remote_pop: str = ""
    """Code of the point of presence that the peer is nearest to; empty while unknown."""
    pop_relay: str = ""
    """Code of the one whose relay carries the packets; empty if none on the relay map does."""


class PingAnswer(NamedTuple):
    """The peer's library answered a `ping_user`."""

    number: int
    """Which one: counted from 1 in each connection."""
    round_trip_us: int
    """From our packet to its answer, in microseconds; what the peer says it took to answer is subtracted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealTimeStatus:
    """How a connection is doing (`SteamNetConnectionRealTimeStatus_t`); None stands for unknown."""

    state: ConnectionState
    ping_ms: int | None
    quality_local: float | None
    """Share of packets that arrived in order, 0..1, over the last full interval; None before."""
    quality_remote: float | None
    out_packets_per_s: float
    out_bytes_per_s: float
    in_packets_per_s: float
    in_bytes_per_s: float
    send_rate_bytes_per_s: int
    pending_unreliable_bytes: int
    pending_reliable_bytes: int
    sent_unacked_reliable_bytes: int
    queue_time_us: int | None
    """How long a message sent now would wait before it leaves."""
    max_jitter_us: int | None
    pings_asked: int = 0
    """How often `ping_user` asked in this connection; the number of the latest ping."""
    ping_answers: tuple[PingAnswer, ...] = ()
    """The latest answers to them, oldest first, at most 16. A ping without one was lost, or its answer was, or is still under
    way."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """State of a session and its connection; the parts that were not asked for, or do not exist, are None."""

    state: ConnectionState
    connection: ConnectionInfo | None = None
    status: RealTimeStatus | None = None
