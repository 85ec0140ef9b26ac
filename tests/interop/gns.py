"""The reference, Valve's GameNetworkingSockets, driven from Python through its flat C interface.

`Reference` wraps one initialised library, and a process can hold only one: most settings, the faked loss and lag among them,
belong to the whole process (`gns_process` gives each peer its own). The shared library is found through the environment variable
`PEERGRAM_GNS_LIBRARY` and nowhere else. Names, numbers and layouts are those of the public headers `steamnetworkingtypes.h`,
`isteamnetworkingsockets.h` and `steamnetworkingsockets_flat.h` of version 1.6, for 64-bit Linux and macOS.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Sequence
from ctypes import (
    POINTER,
    byref,
    c_bool,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_void_p,
)
from dataclasses import asdict, dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any, Self

LIBRARY_VARIABLE = "PEERGRAM_GNS_LIBRARY"
ROOTED_LIBRARY_VARIABLE = "PEERGRAM_GNS_ROOTED_LIBRARY"
"""Another build of it, whose compiled-in root is that of tests/vectors/01-crypto.json (docs/authority.md says how to make it)."""

UNRELIABLE = 0
NO_NAGLE = 1
NO_DELAY = 4
RELIABLE = 8

RESULT_OK = 1
RESULT_LIMIT_EXCEEDED = 25

_TEXT_BYTES = 256
_ERROR_BYTES = 1024
_BATCH_MESSAGES = 256


class State(IntEnum):
    """`ESteamNetworkingConnectionState`."""

    DEAD = -3
    LINGER = -2
    FIN_WAIT = -1
    NONE = 0
    CONNECTING = 1
    FINDING_ROUTE = 2
    CONNECTED = 3
    CLOSED_BY_PEER = 4
    PROBLEM_DETECTED_LOCALLY = 5


CLOSED_STATES = (State.NONE, State.CLOSED_BY_PEER, State.PROBLEM_DETECTED_LOCALLY)


class Setting(IntEnum):
    """`ESteamNetworkingConfigValue`: the ones that tests set."""

    FAKE_LOSS_SEND = 2
    FAKE_LOSS_RECV = 3
    FAKE_LAG_SEND = 4
    FAKE_LAG_RECV = 5
    FAKE_REORDER_SEND = 6
    FAKE_REORDER_RECV = 7
    FAKE_REORDER_TIME = 8
    SEND_BUFFER_SIZE = 9
    SEND_RATE_MIN = 10
    SEND_RATE_MAX = 11
    NAGLE_TIME = 12
    IP_ALLOW_WITHOUT_AUTH = 23
    TIMEOUT_INITIAL = 24
    TIMEOUT_CONNECTED = 25
    FAKE_DUPLICATE_SEND = 26
    FAKE_DUPLICATE_RECV = 27
    FAKE_DUPLICATE_TIME_MAX = 28
    MTU_PACKET_SIZE = 32
    UNENCRYPTED = 34
    RECV_BUFFER_SIZE = 47
    RECV_BUFFER_MESSAGES = 48
    RECV_MAX_MESSAGE_SIZE = 49
    RECV_MAX_SEGMENTS_PER_PACKET = 50
    OUT_OF_ORDER_CORRECTION_WINDOW = 51
    IP_LOCAL_HOST_ALLOW_WITHOUT_AUTH = 52
    P2P_STUN_SERVERS = 103
    P2P_ICE_ENABLE = 104
    P2P_TURN_SERVERS = 107
    P2P_TURN_USERS = 108
    P2P_TURN_PASSWORDS = 109
    ON_SESSION_REQUEST = 204
    ON_SESSION_FAILED = 205
    CREATE_SIGNALING = 206


class GnsError(Exception):
    """The reference refused a call, or is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one reference process is told before it opens a socket; `None` keeps the reference's default."""

    identity: str | None = None
    """As the reference prints it: `str:alice`, `steamid:…`, `gen:…`."""
    loss_send_percent: float | None = None
    loss_recv_percent: float | None = None
    lag_send_ms: int | None = None
    lag_recv_ms: int | None = None
    reorder_send_percent: float | None = None
    reorder_recv_percent: float | None = None
    reorder_ms: int | None = None
    duplicate_send_percent: float | None = None
    duplicate_recv_percent: float | None = None
    duplicate_max_ms: int | None = None
    send_rate_bytes: int | None = None
    """Bytes per second, fixed: the reference does not adapt."""
    send_buffer_bytes: int | None = None
    recv_buffer_bytes: int | None = None
    recv_buffer_messages: int | None = None
    nagle_us: int | None = None
    packet_bytes_max: int | None = None
    timeout_initial_ms: int | None = None
    timeout_connected_ms: int | None = None
    unencrypted: int | None = None
    """0 never (the default), 1 allowed, 2 preferred, 3 required."""
    log_level: int = 0
    """What goes to `Reference.log`: 0 nothing, 4 warnings, 5 messages, 8 everything."""


_SETTING_OF_FIELD: dict[str, tuple[Setting, ...]] = {
    "loss_send_percent": (Setting.FAKE_LOSS_SEND,),
    "loss_recv_percent": (Setting.FAKE_LOSS_RECV,),
    "lag_send_ms": (Setting.FAKE_LAG_SEND,),
    "lag_recv_ms": (Setting.FAKE_LAG_RECV,),
    "reorder_send_percent": (Setting.FAKE_REORDER_SEND,),
    "reorder_recv_percent": (Setting.FAKE_REORDER_RECV,),
    "reorder_ms": (Setting.FAKE_REORDER_TIME,),
    "duplicate_send_percent": (Setting.FAKE_DUPLICATE_SEND,),
    "duplicate_recv_percent": (Setting.FAKE_DUPLICATE_RECV,),
    "duplicate_max_ms": (Setting.FAKE_DUPLICATE_TIME_MAX,),
    "send_rate_bytes": (Setting.SEND_RATE_MIN, Setting.SEND_RATE_MAX),
    "send_buffer_bytes": (Setting.SEND_BUFFER_SIZE,),
    "recv_buffer_bytes": (Setting.RECV_BUFFER_SIZE,),
    "recv_buffer_messages": (Setting.RECV_BUFFER_MESSAGES,),
    "nagle_us": (Setting.NAGLE_TIME,),
    "packet_bytes_max": (Setting.MTU_PACKET_SIZE,),
    "timeout_initial_ms": (Setting.TIMEOUT_INITIAL,),
    "timeout_connected_ms": (Setting.TIMEOUT_CONNECTED,),
    "unencrypted": (Setting.UNENCRYPTED,),
}


@dataclass(frozen=True, slots=True)
class StateChange:
    """One `SteamNetConnectionStatusChangedCallback_t`."""

    connection: int
    old: State
    new: State
    listen_socket: int
    """0 for a connection that this side began."""
    end_reason: int
    end_debug: str


@dataclass(frozen=True, slots=True)
class Received:
    """One message as the reference delivers it."""

    number: int
    flags: int
    lane: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Info:
    """What `GetConnectionInfo` tells; `flags` has 1 for unauthenticated and 2 for unencrypted."""

    state: State
    identity: str
    address: str
    end_reason: int
    end_debug: str
    description: str
    flags: int


@dataclass(frozen=True, slots=True)
class Status:
    """What `GetConnectionRealTimeStatus` tells, unit last."""

    state: State
    ping_ms: int
    quality_local: float
    quality_remote: float
    out_packets_per_s: float
    out_bytes_per_s: float
    in_packets_per_s: float
    in_bytes_per_s: float
    send_rate_bytes_per_s: int
    pending_unreliable_bytes: int
    pending_reliable_bytes: int
    unacked_reliable_bytes: int
    queue_us: int
    jitter_us: int


class Reference:
    """One initialised reference library: listen or connect, then send, receive and `run_callbacks` in a loop.

    Methods that concern a connection take the newest one unless told otherwise. Every refusal raises `GnsError`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.log: deque[str] = deque(maxlen=10_000)
        self.connection = 0
        self.listen_socket = 0
        self._changes: list[StateChange] = []
        self._batch = (POINTER(RawMessage) * _BATCH_MESSAGES)()
        self.library = Library(library_path())
        self._initialise(self.settings.identity)
        # Both stay referenced for as long as the library may call them.
        self._state_callback = _STATE_CALLBACK(self._note_change)
        self._log_callback = _LOG_CALLBACK(lambda level, text: self.log.append(f"{level} {text.decode(errors='replace')}"))
        self.library.utils("SetGlobalCallback_SteamNetConnectionStatusChanged", self._state_callback)
        self.library.utils("SetDebugOutputFunction", self.settings.log_level, self._log_callback)
        self._apply(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Drop every connection without a word to the peers, and end the library's thread."""
        self.library.utils("SetDebugOutputFunction", 0, _LOG_CALLBACK())
        self.library.call("GameNetworkingSockets_Kill")

    def listen(self, port: int, host: str = "127.0.0.1") -> int:
        """Wait for connections on a UDP port (the reference takes no port 0); gives the listen socket's handle."""
        handle = self.library.sockets("CreateListenSocketIP", byref(_address(self.library, host, port)), 0, None)
        self.listen_socket = self._handle(handle, f"listen on {host} port {port}")
        return self.listen_socket

    def connect(self, host: str, port: int) -> int:
        """Begin a connection, which becomes the newest one; gives its handle."""
        handle = self.library.sockets("ConnectByIPAddress", byref(_address(self.library, host, port)), 0, None)
        self.connection = self._handle(handle, f"connect to {host} port {port}")
        return self.connection

    def accept(self, connection: int) -> None:
        """Let in a connection that `run_callbacks` reported as CONNECTING on a listen socket; it becomes the newest one."""
        self._ok(self.library.sockets("AcceptConnection", connection), "accept a connection")
        self.connection = connection

    def close(self, reason: int = 0, debug: str = "", linger: bool = False, connection: int | None = None) -> None:
        """End a connection (reasons 1000 to 2999 are the application's), or free one that the peer has ended."""
        handle = self._pick(connection)
        if not self.library.sockets("CloseConnection", handle, reason, debug.encode(), linger):
            raise GnsError(f"the reference knows no connection {handle}")
        if handle == self.connection:
            self.connection = 0

    def close_listen(self) -> None:
        """Stop listening; accepted connections are dropped too."""
        self.library.sockets("CloseListenSocket", self.listen_socket)
        self.listen_socket = 0

    def send(self, data: bytes, flags: int = RELIABLE, *, lane: int = 0, connection: int | None = None) -> tuple[int, int]:
        """Send one message of up to 524,288 bytes; gives the result (1 OK, 25 limit exceeded) and the message's number."""
        handle = self._pick(connection)
        if lane:
            return self._send_on_lane(handle, data, flags, lane)
        number = c_int64(0)
        result = self.library.sockets("SendMessageToConnection", handle, data, len(data), flags, byref(number))
        return int(result), number.value

    def flush(self, connection: int | None = None) -> None:
        """Send now what waits for company (Nagle)."""
        self._ok(self.library.sockets("FlushMessagesOnConnection", self._pick(connection)), "flush")

    def configure_lanes(self, priorities: Sequence[int], weights: Sequence[int], connection: int | None = None) -> None:
        """Give the sending side lanes: a lower priority number goes first, equal ones share by weight."""
        count = len(priorities)
        result = self.library.sockets(
            "ConfigureConnectionLanes", self._pick(connection), count, (c_int * count)(*priorities), (c_uint16 * count)(*weights)
        )
        self._ok(result, f"configure {count} lanes")

    def receive(self, messages_max: int = _BATCH_MESSAGES, connection: int | None = None) -> list[Received]:
        """Take up to `messages_max` (at most 256) arrived messages, in the order in which the reference hands them out."""
        wanted = min(messages_max, _BATCH_MESSAGES)
        count = self.library.sockets("ReceiveMessagesOnConnection", self._pick(connection), self._batch, wanted)
        if count < 0:
            raise GnsError("the reference knows no such connection to receive from")
        messages = []
        for pointer in self._batch[:count]:
            message = pointer.contents
            data = ctypes.string_at(message.data, message.size_bytes)
            messages.append(Received(message.number, message.flags, message.lane, data))
            self.library.call("SteamAPI_SteamNetworkingMessage_t_Release", pointer)
        return messages

    def info(self, connection: int | None = None) -> Info | None:
        """Who is at the other end and how the connection stands; None once it is forgotten."""
        raw = RawInfo()
        if not self.library.sockets("GetConnectionInfo", self._pick(connection), byref(raw)):
            return None
        return info_of(self.library, raw)

    def status(self, connection: int | None = None) -> Status:
        """Rates, queues and round-trip time at this moment."""
        raw = RawStatus()
        result = self.library.sockets("GetConnectionRealTimeStatus", self._pick(connection), byref(raw), 0, None)
        self._ok(result, "tell the real-time status")
        return status_of(raw)

    def describe(self, connection: int | None = None) -> str:
        """The reference's own long report on a connection, for people."""
        text = ctypes.create_string_buffer(16_384)
        self.library.sockets("GetDetailedConnectionStatus", self._pick(connection), text, len(text))
        return text.value.decode(errors="replace")

    def identity(self) -> str:
        """Our own identity as the reference prints it."""
        raw = RawIdentity()
        self.library.sockets("GetIdentity", byref(raw))
        return identity_text(self.library, raw)

    def certificate_request(self) -> bytes:
        """What this side wants certified: its identity, if it has one, and a key that it makes now and keeps."""
        size, error = c_int(0), ctypes.create_string_buffer(_ERROR_BYTES)
        self.library.sockets("GetCertificateRequest", byref(size), None, error)
        content = ctypes.create_string_buffer(size.value)
        if not self.library.sockets("GetCertificateRequest", byref(size), content, error):
            raise GnsError(f"the reference makes no request: {error.value.decode(errors='replace')}")
        return content.raw[: size.value]

    def set_certificate(self, certificate: bytes) -> str:
        """Install a certificate, as it is stored; what the reference says of it, nothing if it took it without a word."""
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if not self.library.sockets("SetCertificate", certificate, len(certificate), error):
            raise GnsError(error.value.decode(errors="replace"))
        return error.value.decode(errors="replace")

    def set_config(self, setting: Setting | int, value: float | str, connection: int | None = None) -> None:
        """Change a setting for the process, or for one connection where a handle is given."""
        scope, scope_object = (_SCOPE_GLOBAL, 0) if connection is None else (_SCOPE_CONNECTION, connection)
        kind = c_int32(0)
        if not self.library.utils("GetConfigValueInfo", setting, byref(kind), byref(c_int32(0))):
            raise GnsError(f"the reference has no setting number {int(setting)}")
        argument = value.encode() if isinstance(value, str) else byref(_NUMBER_OF_KIND[kind.value](value))
        if not self.library.utils("SetConfigValue", setting, scope, scope_object, kind, argument):
            raise GnsError(f"the reference does not take {value!r} for setting {setting!r}")

    def set_callback(self, setting: Setting, function: Any) -> None:
        """Set one of the callbacks of the process; the caller keeps the function alive."""
        pointer = ctypes.cast(function, c_void_p)
        if not self.library.utils("SetConfigValue", setting, _SCOPE_GLOBAL, 0, _KIND_POINTER, byref(pointer)):
            raise GnsError(f"the reference does not take a function for setting {setting!r}")

    def run_callbacks(self) -> list[StateChange]:
        """The state changes since the last call, oldest first; states move on only for those who call this."""
        self.library.sockets("RunCallbacks")
        changes, self._changes = self._changes, []
        return changes

    def _initialise(self, identity: str | None) -> None:
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        own = None if identity is None else byref(parse_identity(self.library, identity))
        if not self.library.call("GameNetworkingSockets_Init", own, error):
            raise GnsError(f"the reference does not start: {error.value.decode(errors='replace')}")
        self.library.find_interfaces()

    def _apply(self, settings: Settings) -> None:
        # Nobody issues certificates here, so strangers without one must be welcome.
        self.set_config(Setting.IP_ALLOW_WITHOUT_AUTH, 2)
        values = asdict(settings)
        for field, numbers in _SETTING_OF_FIELD.items():
            if values[field] is not None:
                for number in numbers:
                    self.set_config(number, values[field])

    def _note_change(self, pointer: Any) -> None:
        raw = pointer.contents
        self._changes.append(
            StateChange(
                connection=raw.connection,
                old=State(raw.old_state),
                new=State(raw.info.state),
                listen_socket=raw.info.listen_socket,
                end_reason=raw.info.end_reason,
                end_debug=raw.info.end_debug.decode(errors="replace"),
            )
        )

    def _send_on_lane(self, handle: int, data: bytes, flags: int, lane: int) -> tuple[int, int]:
        """The long way round: only a message object carries a lane."""
        pointer = self.library.utils("AllocateMessage", len(data))
        message = pointer.contents
        ctypes.memmove(message.data, data, len(data))
        message.connection, message.flags, message.lane = handle, flags, lane
        outcome = c_int64(0)
        self.library.sockets("SendMessages", 1, byref(pointer), byref(outcome), True)
        return (RESULT_OK, outcome.value) if outcome.value > 0 else (-outcome.value, 0)

    def _pick(self, connection: int | None) -> int:
        handle = self.connection if connection is None else connection
        if not handle:
            raise GnsError("no connection yet: connect or accept one first")
        return handle

    @staticmethod
    def _handle(handle: int, what: str) -> int:
        if not handle:
            raise GnsError(f"the reference does not {what}")
        return handle

    @staticmethod
    def _ok(result: int, what: str) -> None:
        if result != RESULT_OK:
            raise GnsError(f"the reference does not {what}: result {result}")


def library_path() -> str:
    """Where the reference's shared library is, by the environment; raises `GnsError` where it is not told."""
    path = os.environ.get(LIBRARY_VARIABLE)
    if not path:
        raise GnsError(f"set {LIBRARY_VARIABLE} to the reference's shared library (libGameNetworkingSockets.so)")
    return path


_SCOPE_GLOBAL = 1
_SCOPE_CONNECTION = 4
_KIND_POINTER = 5
_NUMBER_OF_KIND: dict[int, Any] = {1: c_int32, 2: c_int64, 3: c_float}


class _Packed(ctypes.Structure):
    """Most public structures are packed to 1 or 4 bytes, which only this layout rule can express."""

    _layout_ = "ms"


class _IPAddress(_Packed):
    _pack_ = 1
    _fields_ = (("ipv6", c_uint8 * 16), ("port", c_uint16))


class RawIdentity(_Packed):
    _pack_ = 1
    _fields_ = (("kind", c_int32), ("size_bytes", c_int32), ("value", c_uint8 * 128))


class RawInfo(_Packed):
    _pack_ = 4
    _fields_ = (
        ("identity", RawIdentity),
        ("user_data", c_int64),
        ("listen_socket", c_uint32),
        ("address", _IPAddress),
        ("_padding", c_uint16),
        ("pop_remote", c_uint32),
        ("pop_relay", c_uint32),
        ("state", c_int32),
        ("end_reason", c_int32),
        ("end_debug", c_char * 128),
        ("description", c_char * 128),
        ("flags", c_int32),
        ("_reserved", c_uint32 * 63),
    )


class _StateChanged(_Packed):
    _pack_ = 4
    _fields_ = (("connection", c_uint32), ("info", RawInfo), ("old_state", c_int32))


class RawStatus(_Packed):
    _pack_ = 4
    _fields_ = (
        ("state", c_int32),
        ("ping_ms", c_int32),
        ("quality_local", c_float),
        ("quality_remote", c_float),
        ("out_packets_per_s", c_float),
        ("out_bytes_per_s", c_float),
        ("in_packets_per_s", c_float),
        ("in_bytes_per_s", c_float),
        ("send_rate", c_int32),
        ("pending_unreliable", c_int32),
        ("pending_reliable", c_int32),
        ("unacked_reliable", c_int32),
        ("queue_us", c_int64),
        ("jitter_us", c_int32),
        ("_reserved", c_uint32 * 15),
    )


class RawMessage(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("size_bytes", c_int32),
        ("connection", c_uint32),
        ("identity", RawIdentity),
        ("user_data_connection", c_int64),
        ("received_at_us", c_int64),
        ("number", c_int64),
        ("free_data", c_void_p),
        ("release", c_void_p),
        ("channel", c_int32),
        ("flags", c_int32),
        ("user_data", c_int64),
        ("lane", c_uint16),
        ("_padding", c_uint16),
    )


class RawSessionFailed(_Packed):
    """`SteamNetworkingMessagesSessionFailed_t`; the session request is an identity and nothing else."""

    _pack_ = 1
    _fields_ = (("info", RawInfo),)


_SIZES: dict[type[ctypes.Structure], int] = {
    _IPAddress: 18,
    RawIdentity: 136,
    RawInfo: 696,
    _StateChanged: 704,
    RawStatus: 120,
    RawSessionFailed: 696,
    RawMessage: 216,
}


_STATE_CALLBACK = ctypes.CFUNCTYPE(None, POINTER(_StateChanged))
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int32, c_char_p)
SESSION_REQUEST_CALLBACK = ctypes.CFUNCTYPE(None, POINTER(RawIdentity))
SESSION_FAILED_CALLBACK = ctypes.CFUNCTYPE(None, POINTER(RawSessionFailed))
CREATE_SIGNALING_CALLBACK = ctypes.CFUNCTYPE(c_void_p, c_void_p, POINTER(RawIdentity), c_int, c_int)
"""`FnSteamNetworkingSocketsCreateConnectionSignaling`: interface, peer, local and remote port; gives a signaling object."""
SEND_SIGNAL_CALLBACK = ctypes.CFUNCTYPE(c_bool, c_void_p, c_uint32, c_void_p, c_void_p, c_int)
"""Context, connection, its info, signal and size. Called from any thread."""
RELEASE_SIGNALING_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p)
CONNECT_REQUEST_CALLBACK = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_uint32, POINTER(RawIdentity), c_int)
"""Context, connection, peer and local virtual port; gives a signaling object, or None to ignore the request."""
REJECTION_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, POINTER(RawIdentity), c_void_p, c_int)

_SOCKETS = "SteamAPI_ISteamNetworkingSockets_"
_UTILS = "SteamAPI_ISteamNetworkingUtils_"
_MESSAGES = "SteamAPI_ISteamNetworkingMessages_"
_NUMBERS_OUT = POINTER(c_int64)
_OPTIONS = c_void_p

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "GameNetworkingSockets_Init": (c_bool, (POINTER(RawIdentity), c_char_p)),
    "GameNetworkingSockets_Kill": (None, ()),
    "SteamAPI_SteamNetworkingSockets_v009": (c_void_p, ()),
    "SteamAPI_SteamNetworkingUtils_v003": (c_void_p, ()),
    "SteamAPI_SteamNetworkingMessages_v002": (c_void_p, ()),
    _SOCKETS + "CreateCustomSignaling": (c_void_p, (c_void_p, SEND_SIGNAL_CALLBACK, RELEASE_SIGNALING_CALLBACK)),
    "SteamAPI_SteamNetworkingMessage_t_Release": (None, (POINTER(RawMessage),)),
    "SteamAPI_SteamNetworkingIPAddr_ParseString": (c_bool, (POINTER(_IPAddress), c_char_p)),
    "SteamAPI_SteamNetworkingIPAddr_ToString": (None, (POINTER(_IPAddress), c_char_p, ctypes.c_size_t, c_bool)),
    "SteamAPI_SteamNetworkingIdentity_ParseString": (c_bool, (POINTER(RawIdentity), ctypes.c_size_t, c_char_p)),
    "SteamAPI_SteamNetworkingIdentity_ToString": (None, (POINTER(RawIdentity), c_char_p, ctypes.c_size_t)),
}
"""Free functions: result and arguments."""

_METHODS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    _SOCKETS + "CreateListenSocketIP": (c_uint32, (POINTER(_IPAddress), c_int, _OPTIONS)),
    _SOCKETS + "CloseListenSocket": (c_bool, (c_uint32,)),
    _SOCKETS + "ConnectByIPAddress": (c_uint32, (POINTER(_IPAddress), c_int, _OPTIONS)),
    _SOCKETS + "AcceptConnection": (c_int32, (c_uint32,)),
    _SOCKETS + "CloseConnection": (c_bool, (c_uint32, c_int, c_char_p, c_bool)),
    _SOCKETS + "SendMessageToConnection": (c_int32, (c_uint32, c_char_p, c_uint32, c_int, _NUMBERS_OUT)),
    _SOCKETS + "SendMessages": (None, (c_int, POINTER(POINTER(RawMessage)), _NUMBERS_OUT, c_bool)),
    _SOCKETS + "FlushMessagesOnConnection": (c_int32, (c_uint32,)),
    _SOCKETS + "ReceiveMessagesOnConnection": (c_int, (c_uint32, POINTER(POINTER(RawMessage)), c_int)),
    _SOCKETS + "GetConnectionInfo": (c_bool, (c_uint32, POINTER(RawInfo))),
    _SOCKETS + "GetConnectionRealTimeStatus": (c_int32, (c_uint32, POINTER(RawStatus), c_int, c_void_p)),
    _SOCKETS + "GetDetailedConnectionStatus": (c_int, (c_uint32, c_char_p, c_int)),
    _SOCKETS + "ConfigureConnectionLanes": (c_int32, (c_uint32, c_int, POINTER(c_int), POINTER(c_uint16))),
    _SOCKETS + "GetIdentity": (c_bool, (POINTER(RawIdentity),)),
    _SOCKETS + "GetCertificateRequest": (c_bool, (POINTER(c_int), c_char_p, c_char_p)),
    _SOCKETS + "SetCertificate": (c_bool, (c_char_p, c_int, c_char_p)),
    _SOCKETS + "RunCallbacks": (None, ()),
    _SOCKETS + "ReceivedP2PCustomSignal2": (c_bool, (c_char_p, c_int, c_void_p, CONNECT_REQUEST_CALLBACK, REJECTION_CALLBACK)),
    _MESSAGES + "SendMessageToUser": (c_int32, (POINTER(RawIdentity), c_char_p, c_uint32, c_int, c_int)),
    _MESSAGES + "ReceiveMessagesOnChannel": (c_int, (c_int, POINTER(POINTER(RawMessage)), c_int)),
    _MESSAGES + "AcceptSessionWithUser": (c_bool, (POINTER(RawIdentity),)),
    _MESSAGES + "CloseSessionWithUser": (c_bool, (POINTER(RawIdentity),)),
    _MESSAGES + "CloseChannelWithUser": (c_bool, (POINTER(RawIdentity), c_int)),
    _MESSAGES + "GetSessionConnectionInfo": (c_int32, (POINTER(RawIdentity), POINTER(RawInfo), POINTER(RawStatus))),
    _UTILS + "AllocateMessage": (POINTER(RawMessage), (c_int,)),
    _UTILS + "SetConfigValue": (c_bool, (c_int32, c_int32, ctypes.c_ssize_t, c_int32, c_void_p)),
    _UTILS + "GetConfigValueInfo": (c_char_p, (c_int32, POINTER(c_int32), POINTER(c_int32))),
    _UTILS + "SetGlobalCallback_SteamNetConnectionStatusChanged": (c_bool, (_STATE_CALLBACK,)),
    _UTILS + "SetDebugOutputFunction": (None, (c_int32, _LOG_CALLBACK)),
}
"""Methods: result and arguments after the interface pointer."""


class Library:
    """The shared library with its functions declared; `sockets`, `utils` and `messages` add the interface pointer."""

    def __init__(self, path: str) -> None:
        for structure, size_bytes in _SIZES.items():
            assert ctypes.sizeof(structure) == size_bytes, structure
        try:
            shared = ctypes.CDLL(path)
        except OSError as error:
            raise GnsError(f"{LIBRARY_VARIABLE} does not name a loadable library: {error}") from error
        self._functions = {name: _declare(shared, name, result, arguments) for name, (result, arguments) in _FUNCTIONS.items()}
        for name, (result, arguments) in _METHODS.items():
            self._functions[name] = _declare(shared, name, result, (c_void_p, *arguments))
        self._sockets_pointer = self._utils_pointer = self._messages_pointer = None

    def find_interfaces(self) -> None:
        """To be called after every initialisation."""
        self._sockets_pointer = self.call("SteamAPI_SteamNetworkingSockets_v009")
        self._utils_pointer = self.call("SteamAPI_SteamNetworkingUtils_v003")

    def find_messages(self) -> None:
        """The messages interface is made when it is asked for, and then listens for signals."""
        self._messages_pointer = self.call("SteamAPI_SteamNetworkingMessages_v002")

    def call(self, name: str, *arguments: Any) -> Any:
        return self._functions[name](*arguments)

    def sockets(self, name: str, *arguments: Any) -> Any:
        return self._functions[_SOCKETS + name](self._sockets_pointer, *arguments)

    def utils(self, name: str, *arguments: Any) -> Any:
        return self._functions[_UTILS + name](self._utils_pointer, *arguments)

    def messages(self, name: str, *arguments: Any) -> Any:
        return self._functions[_MESSAGES + name](self._messages_pointer, *arguments)

    def create_signaling(self, context: int, send: Any, release: Any) -> int:
        """An `ISteamNetworkingConnectionSignaling` that calls these two with the context; the caller keeps them alive."""
        pointer: int = self.call(_SOCKETS + "CreateCustomSignaling", context, send, release)
        return pointer


def _declare(shared: ctypes.CDLL, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
    function = shared[name]
    function.restype, function.argtypes = result, arguments
    return function


def _address(library: Library, host: str, port: int) -> _IPAddress:
    address = _IPAddress()
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not library.call("SteamAPI_SteamNetworkingIPAddr_ParseString", byref(address), text.encode()):
        raise GnsError(f"the reference does not read the address {text!r}")
    return address


def parse_identity(library: Library, text: str) -> RawIdentity:
    """Raises `GnsError` for text that is none."""
    identity = RawIdentity()
    size_bytes = ctypes.sizeof(identity)
    if not library.call("SteamAPI_SteamNetworkingIdentity_ParseString", byref(identity), size_bytes, text.encode()):
        raise GnsError(f"the reference does not read the identity {text!r}")
    return identity


def identity_text(library: Library, identity: RawIdentity) -> str:
    """As the reference prints it."""
    return _text(library, "SteamAPI_SteamNetworkingIdentity_ToString", identity)


def info_of(library: Library, raw: RawInfo) -> Info:
    """The structure as values."""
    return Info(
        state=State(raw.state),
        identity=identity_text(library, raw.identity),
        address=_text(library, "SteamAPI_SteamNetworkingIPAddr_ToString", raw.address, True),
        end_reason=raw.end_reason,
        end_debug=raw.end_debug.decode(errors="replace"),
        description=raw.description.decode(errors="replace"),
        flags=raw.flags,
    )


def status_of(raw: RawStatus) -> Status:
    """The structure as values."""
    return Status(
        state=State(raw.state),
        ping_ms=raw.ping_ms,
        quality_local=raw.quality_local,
        quality_remote=raw.quality_remote,
        out_packets_per_s=raw.out_packets_per_s,
        out_bytes_per_s=raw.out_bytes_per_s,
        in_packets_per_s=raw.in_packets_per_s,
        in_bytes_per_s=raw.in_bytes_per_s,
        send_rate_bytes_per_s=raw.send_rate,
        pending_unreliable_bytes=raw.pending_unreliable,
        pending_reliable_bytes=raw.pending_reliable,
        unacked_reliable_bytes=raw.unacked_reliable,
        queue_us=raw.queue_us,
        jitter_us=raw.jitter_us,
    )


def _text(library: Library, function: str, value: ctypes.Structure, *options: Any) -> str:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    library.call(function, byref(value), buffer, len(buffer), *options)
    return buffer.value.decode(errors="replace")
