"""peergram: send a message to a person, not to an address."""

from peergram.config import Config
from peergram.errors import (
    AddressInUseError,
    ClosedError,
    EndReason,
    PeergramError,
    Result,
    UsageError,
)
from peergram.events import (
    ConnectionInfo,
    ConnectionState,
    DroppedDatagrams,
    InfoFlags,
    Message,
    RealTimeStatus,
    SendFlags,
    SessionFailed,
    SessionRequested,
    Unconfirmed,
)
from peergram.identity import Identity
from peergram.messages import Messages, SessionInfo

__all__ = [
    "AddressInUseError",
    "ClosedError",
    "Config",
    "ConnectionInfo",
    "ConnectionState",
    "DroppedDatagrams",
    "EndReason",
    "Identity",
    "InfoFlags",
    "Message",
    "Messages",
    "PeergramError",
    "RealTimeStatus",
    "Result",
    "SendFlags",
    "SessionFailed",
    "SessionInfo",
    "SessionRequested",
    "Unconfirmed",
    "UsageError",
]
