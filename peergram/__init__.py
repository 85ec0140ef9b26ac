"""peergram: send a message to a person, not to an address."""

from types import FunctionType as _FunctionType
from typing import Final as _Final

from peergram.config import Config
from peergram.errors import (
    AddressInUseError,
    ClosedError,
    EndReason,
    IdentityInUseError,
    PeergramError,
    Result,
    UsageError,
)
from peergram.events import (
    ConnectionInfo,
    ConnectionState,
    Delivered,
    DroppedDatagrams,
    InfoFlags,
    Message,
    PeerRefused,
    PingAnswer,
    RealTimeStatus,
    Receipt,
    RouteChanged,
    SendFlags,
    SessionFailed,
    SessionRequested,
    Unconfirmed,
)
from peergram.identity import Identity
from peergram.messages import Messages, SessionInfo
from peergram.timing import TimerTable as _TimerTable

COMPILED: _Final = not isinstance(_TimerTable.next, _FunctionType)
"""Whether this is the compiled build (docs/performance.md): a compiled method is no function of Python's."""

__all__ = [
    "COMPILED",
    "AddressInUseError",
    "ClosedError",
    "Config",
    "ConnectionInfo",
    "ConnectionState",
    "Delivered",
    "DroppedDatagrams",
    "EndReason",
    "Identity",
    "IdentityInUseError",
    "InfoFlags",
    "Message",
    "Messages",
    "PeerRefused",
    "PeergramError",
    "PingAnswer",
    "RealTimeStatus",
    "Receipt",
    "Result",
    "RouteChanged",
    "SendFlags",
    "SessionFailed",
    "SessionInfo",
    "SessionRequested",
    "Unconfirmed",
    "UsageError",
]
