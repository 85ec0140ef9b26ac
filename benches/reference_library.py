"""The reference's flat C interface, as far as the benchmark needs it, with as little Python in between as ctypes allows.

Messages go out and come in by the hundred in preallocated arrays of pointers. What remains per message on the way out is one
allocation by the library and one copy of a prepared head of 216 bytes, which points at the payload (the library copies nothing);
on the way in, one release. Both run in `map`, without a line of Python per message. The library works in a thread of its own,
which needs no Python lock. Names and layouts are those of the public headers of version 1.6, for 64-bit Linux and macOS.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections import deque
from collections.abc import Iterable
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_int32, c_int64, c_ssize_t, c_uint16, c_uint32, c_void_p
from itertools import repeat
from typing import Any

LIBRARY_VARIABLE = "PEERGRAM_GNS_LIBRARY"

UNRELIABLE_NO_NAGLE = 1
RELIABLE = 8
USE_CURRENT_THREAD = 16

SEND_BUFFER_SIZE = 9
SEND_RATE_MIN = 10
SEND_RATE_MAX = 11
RECV_BUFFER_SIZE = 47
RECV_BUFFER_MESSAGES = 48
_IP_ALLOW_WITHOUT_AUTH = 23

_CONNECTING = 1
_CONNECTED = 3
_RESULT_OK = 1
_SCOPE_GLOBAL = 1
_TYPE_INT32 = 1
_ERROR_BYTES = 1024
_STATUS_BYTES = 120
_STATUS_QUEUED = struct.Struct("36x3i")
"""Of `SteamNetConnectionRealTimeStatus_t`: bytes pending unreliable, pending reliable, sent and not yet confirmed."""
_MESSAGE_BYTES = 216
_MESSAGE_HEAD = struct.Struct("QiI")
"""Of `SteamNetworkingMessage_t`: data, size, connection."""
_MESSAGE_FREE_AT = 176
_MESSAGE_FLAGS_AT = 196
_CHANGE_INFO_AT = 4
"""Of `SteamNetConnectionStatusChangedCallback_t`: the handle stands before the connection's description."""
_INFO_LISTEN_SOCKET_AT = 144
_INFO_STATE_AT = 176

_SOCKETS = "SteamAPI_ISteamNetworkingSockets_"
_UTILS = "SteamAPI_ISteamNetworkingUtils_"
_ON_CHANGE = ctypes.CFUNCTYPE(None, c_void_p)


class _Address(ctypes.Structure):
    _layout_ = "ms"
    _pack_ = 1
    _fields_ = (("ipv6", ctypes.c_uint8 * 16), ("port", c_uint16))


class Batch:
    """A preallocated array of message pointers; `pointers` may be read as a list of numbers."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pointers: Any = (c_void_p * size)()


class ReferenceLibrary:
    """The library, initialised; one to a process. `is_polled` leaves out its thread: `wait` must be called instead."""

    def __init__(self, settings: dict[int, int], *, is_polled: bool = False) -> None:
        self._shared = ctypes.CDLL(os.environ[LIBRARY_VARIABLE])
        # Short calls keep Python's lock: giving it back costs more than they take.
        self._short = ctypes.PyDLL(os.environ[LIBRARY_VARIABLE])
        if is_polled:
            self._declare("SteamNetworkingSockets_SetManualPollMode", None, c_bool)(True)
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if not self._declare("GameNetworkingSockets_Init", c_bool, c_void_p, c_char_p)(None, error):
            raise OSError(f"the reference does not start: {error.value.decode(errors='replace')}")
        self._sockets = self._declare("SteamAPI_SteamNetworkingSockets_v009", c_void_p)()
        self._utils = self._declare("SteamAPI_SteamNetworkingUtils_v003", c_void_p)()
        self.accepted: list[int] = []
        """Connections let in, oldest first."""
        self.ended = 0
        """How many connections ended or failed."""
        self._asking: list[int] = []
        self._connected: set[int] = set()
        self._declare_methods()
        self._on_change = _ON_CHANGE(self._note_change)
        self._declare(_UTILS + "SetGlobalCallback_SteamNetConnectionStatusChanged", c_bool, c_void_p, _ON_CHANGE)(
            self._utils, self._on_change
        )
        # Nobody issues certificates here, so strangers without one must be welcome.
        for setting, value in (settings | {_IP_ALLOW_WITHOUT_AUTH: 2}).items():
            if not self._set_config(self._utils, setting, _SCOPE_GLOBAL, 0, _TYPE_INT32, byref(c_int32(value))):
                raise OSError(f"the reference does not take {value} for setting {setting}")

    def close(self) -> None:
        """Drop all connections and end the library's thread."""
        self._declare("GameNetworkingSockets_Kill", None)()

    def listen(self, port: int) -> None:
        """Let in whoever comes to 127.0.0.1 at this port, in `run_callbacks`."""
        if not self._listen(self._sockets, byref(self._address(port)), 0, None):
            raise OSError(f"the reference does not listen on port {port}")

    def connect(self, port: int) -> int:
        """Begin a connection to 127.0.0.1 at this port; its handle."""
        return int(self._connect(self._sockets, byref(self._address(port)), 0, None))

    def is_connected(self, connection: int) -> bool:
        """As far as `run_callbacks` has told."""
        return connection in self._connected

    def run_callbacks(self) -> None:
        """Take note of what happened, and let in those who ask."""
        self._run_callbacks(self._sockets)
        for connection in self._asking:
            if self._accept(self._sockets, connection) == _RESULT_OK:
                self.accepted.append(connection)
        self._asking.clear()

    def wait(self, milliseconds: int) -> None:
        """Without the thread: wait for a packet, and do what there is to do."""
        self._poll(milliseconds)

    def prepare(self, connection: int, payload: Any, flags: int) -> Any:
        """The head of a message with this payload (a ctypes buffer, which must outlive it), for `fill`."""
        pointer = self._allocate(self._utils, 0)
        head = ctypes.create_string_buffer(ctypes.string_at(pointer, _MESSAGE_BYTES), _MESSAGE_BYTES)
        self._release(pointer)
        _MESSAGE_HEAD.pack_into(head, 0, ctypes.addressof(payload), ctypes.sizeof(payload), connection)
        struct.pack_into("Q", head, _MESSAGE_FREE_AT, 0)
        struct.pack_into("i", head, _MESSAGE_FLAGS_AT, flags)
        return head

    def fill(self, batch: Batch, head: Any) -> None:
        """Make messages of a prepared head until the batch is full; those that were not taken are at its beginning."""
        waiting = [pointer for pointer in batch.pointers if pointer]
        fresh = list(map(self._allocate, repeat(self._utils, batch.size - len(waiting)), repeat(0)))
        _run(map(self._copy, fresh, repeat(ctypes.addressof(head)), repeat(_MESSAGE_BYTES)))
        batch.pointers[:] = waiting + fresh

    def send(self, batch: Batch) -> int:
        """Hand a full batch over; how many messages were taken. The others stay in the batch."""
        self._send(self._sockets, batch.size, batch.pointers, None, False)
        return sum(pointer is None for pointer in batch.pointers)

    def receive(self, connection: int, batch: Batch) -> int:
        """Take what has arrived, at most a batch of it, and release it; how many messages it was."""
        count = int(self._receive(self._sockets, connection, batch.pointers, batch.size))
        if count > 0:
            _run(map(self._release, batch.pointers[:count]))
        return count

    def queued_bytes(self, connection: int) -> int:
        """What was sent and is not yet confirmed, or not yet on its way."""
        raw = ctypes.create_string_buffer(_STATUS_BYTES)
        if self._status(self._sockets, connection, raw, 0, None) != _RESULT_OK:
            return 0
        return sum(_STATUS_QUEUED.unpack_from(raw))

    def _declare(self, name: str, result: Any, *arguments: Any, short: bool = False) -> Any:
        function = (self._short if short else self._shared)[name]
        function.restype, function.argtypes = result, arguments
        return function

    def _declare_methods(self) -> None:
        pointer, options = c_void_p, c_void_p
        self._parse = self._declare("SteamAPI_SteamNetworkingIPAddr_ParseString", c_bool, POINTER(_Address), c_char_p)
        self._set_config = self._declare(
            _UTILS + "SetConfigValue", c_bool, pointer, c_int32, c_int32, c_ssize_t, c_int32, c_void_p
        )
        self._listen = self._declare(_SOCKETS + "CreateListenSocketIP", c_uint32, pointer, POINTER(_Address), c_int, options)
        self._connect = self._declare(_SOCKETS + "ConnectByIPAddress", c_uint32, pointer, POINTER(_Address), c_int, options)
        self._accept = self._declare(_SOCKETS + "AcceptConnection", c_int32, pointer, c_uint32)
        self._close = self._declare(_SOCKETS + "CloseConnection", c_bool, pointer, c_uint32, c_int, c_char_p, c_bool)
        self._run_callbacks = self._declare(_SOCKETS + "RunCallbacks", None, pointer)
        self._status = self._declare(
            _SOCKETS + "GetConnectionRealTimeStatus", c_int32, pointer, c_uint32, c_void_p, c_int, c_void_p
        )
        self._send = self._declare(_SOCKETS + "SendMessages", None, pointer, c_int, c_void_p, POINTER(c_int64), c_bool)
        self._receive = self._declare(_SOCKETS + "ReceiveMessagesOnConnection", c_int, pointer, c_uint32, c_void_p, c_int)
        self._allocate = self._declare(_UTILS + "AllocateMessage", c_void_p, pointer, c_int, short=True)
        self._release = self._declare("SteamAPI_SteamNetworkingMessage_t_Release", None, c_void_p, short=True)
        self._poll = self._declare("SteamNetworkingSockets_Poll", None, c_int)
        self._copy = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_void_p, ctypes.c_size_t)(
            ctypes.cast(ctypes.CDLL(None).memcpy, c_void_p).value or 0
        )

    def _address(self, port: int) -> _Address:
        address = _Address()
        self._parse(byref(address), f"127.0.0.1:{port}".encode())
        return address

    def _note_change(self, change: int) -> None:
        connection = c_uint32.from_address(change).value
        state = c_int32.from_address(change + _CHANGE_INFO_AT + _INFO_STATE_AT).value
        listen_socket = c_uint32.from_address(change + _CHANGE_INFO_AT + _INFO_LISTEN_SOCKET_AT).value
        if state == _CONNECTING and listen_socket:
            self._asking.append(connection)
        elif state == _CONNECTED:
            self._connected.add(connection)
        elif state > _CONNECTED:
            self.ended += 1
            self._connected.discard(connection)
            self._close(self._sockets, connection, 0, None, False)


def _run(calls: Iterable[object]) -> None:
    """Make all the calls, at the least cost."""
    deque(calls, maxlen=0)
