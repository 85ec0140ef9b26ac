"""Whose fault it was, and why a session or connection ended.

Three families, after h11's local and remote errors: `WireError` says that bytes from outside are wrong (it is the only
exception a decoder may raise, and never leaves the library); `UsageError` says that the caller's request cannot be met and what
to do; everything else is a defect of ours. End reasons are the reference's numbers (`ESteamNetConnectionEnd`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peergram.identity import Identity


class WireError(Exception):
    """Bytes from outside do not follow the format: drop the packet, or end the connection."""


class PeergramError(Exception):
    """Base of every exception a user of the library can meet."""


class UsageError(PeergramError, ValueError):
    """A wrong argument; the text says what would be right."""


class ClosedError(PeergramError):
    """The endpoint was closed before this call."""


class AddressInUseError(PeergramError, OSError):
    """The UDP port asked for belongs to somebody else; choose another or 0."""


class IdentityInUseError(UsageError):
    """Another program uses the key of this identity; end it, or be somebody else."""


class Result(IntEnum):
    """What a send returns (`EResult` of the reference)."""

    OK = 1
    FAIL = 2
    NO_CONNECTION = 3
    INVALID_PARAM = 8
    INVALID_STATE = 11
    LIMIT_EXCEEDED = 25
    CONNECT_FAILED = 35
    IGNORED = 41


class EndReason(IntEnum):
    """Why a connection ended (`ESteamNetConnectionEnd`); 1000-1999 normal, 2000-2999 unusual: both the application's."""

    INVALID = 0
    APP_GENERIC = 1000
    SESSION_CLOSED = 1001
    SESSION_IDLE = 1002
    APP_MAX = 1999
    APP_EXCEPTION_GENERIC = 2000
    APP_EXCEPTION_MAX = 2999
    LOCAL_OFFLINE_MODE = 3001
    LOCAL_MANY_RELAY_CONNECTIVITY = 3002
    LOCAL_HOSTED_SERVER_PRIMARY_RELAY = 3003
    LOCAL_NETWORK_CONFIG = 3004
    LOCAL_RIGHTS = 3005
    LOCAL_P2P_ICE_NO_PUBLIC_ADDRESSES = 3006
    REMOTE_TIMEOUT = 4001
    REMOTE_BAD_CRYPT = 4002
    REMOTE_BAD_CERT = 4003
    REMOTE_BAD_PROTOCOL_VERSION = 4006
    REMOTE_P2P_ICE_NO_PUBLIC_ADDRESSES = 4007
    MISC_GENERIC = 5001
    MISC_INTERNAL_ERROR = 5002
    MISC_TIMEOUT = 5003
    MISC_STEAM_CONNECTIVITY = 5005
    MISC_NO_RELAY_SESSIONS_TO_CLIENT = 5006
    MISC_P2P_RENDEZVOUS = 5008
    MISC_P2P_NAT_FIREWALL = 5009
    MISC_PEER_SENT_NO_CONNECTION = 5010


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended: the number both sides know it by, and a sentence (at most 127 bytes of UTF-8 on the wire)."""

    reason: int
    debug: str
    by_peer: bool = False
    told: str = ""
    """What the peer hears in place of `debug`, if that is for our application only."""

    @property
    def text_for_peer(self) -> str:
        """The sentence that goes to him."""
        return self.told or self.debug


class SendError(PeergramError):
    """A message to `identity` could not be taken (`peergram.aio`); `result` is what `Messages` would have returned."""

    def __init__(self, text: str, identity: Identity, result: Result) -> None:
        super().__init__(text)
        self.identity = identity
        self.result = result


class NoRouteError(SendError):
    """There is no way to reach this identity; the text names those that could be given."""


class SessionBrokenError(SendError):
    """The session with this identity broke: `reason` (see EndReason) and `debug` say why. Close it to begin anew."""

    def __init__(self, text: str, identity: Identity, result: Result, reason: int, debug: str) -> None:
        super().__init__(text, identity, result)
        self.reason = reason
        self.debug = debug


class MessageTooLargeError(SendError, UsageError):
    """No buffer has room for this message, however empty; send it as a blob."""


class BlobError(PeergramError):
    """A blob did not arrive; the text says why, and what to do."""
