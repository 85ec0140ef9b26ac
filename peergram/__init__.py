"""peergram: send a message to a person, not to an address."""

from types import FunctionType as _FunctionType
from types import ModuleType as _ModuleType
from typing import Final as _Final

from peergram.blobs import Blob
from peergram.config import Config
from peergram.errors import (
    AddressInUseError,
    BlobError,
    ClosedError,
    EndReason,
    IdentityInUseError,
    MessageTooLargeError,
    NoRouteError,
    PeergramError,
    Result,
    SendError,
    SessionBrokenError,
    UsageError,
)
from peergram.events import (
    Availability,
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
    RelayNetworkChanged,
    RelayNetworkStatus,
    RouteChanged,
    SendFlags,
    SessionFailed,
    SessionInfo,
    SessionRequested,
    Unconfirmed,
)
from peergram.identity import Identity
from peergram.messages import Messages
from peergram.timing import TimerTable as _TimerTable

COMPILED: _Final = not isinstance(_TimerTable.next, _FunctionType)
"""Whether this is the compiled build (docs/performance.md): a compiled method is no function of Python's."""

__all__ = [
    "COMPILED",
    "AddressInUseError",
    "Availability",
    "Blob",
    "BlobError",
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
    "MessageTooLargeError",
    "Messages",
    "NoRouteError",
    "PeerRefused",
    "PeergramError",
    "PingAnswer",
    "RealTimeStatus",
    "Receipt",
    "RelayNetworkChanged",
    "RelayNetworkStatus",
    "Result",
    "RouteChanged",
    "SendError",
    "SendFlags",
    "SessionBrokenError",
    "SessionFailed",
    "SessionInfo",
    "SessionRequested",
    "Unconfirmed",
    "UsageError",
]


def __getattr__(name: str) -> _ModuleType:
    """`peergram.aio` is there on first use: who does without asyncio need not load it."""
    if name == "aio":
        import peergram.aio as module

        return module
    raise AttributeError(f"module 'peergram' has no attribute {name!r}")
