"""The reference's flat C interface, as far as the benchmark needs it, with as little Python in between as ctypes allows.

Messages go out and come in by the hundred in preallocated arrays of pointers, and no line of Python runs for one message. Those
that go out are made once, side by side in memory of our own, all with the same payload, and used again and again (`Outgoing`), so
that the library is spared to allocate and copy them, too. Those that come in each cost one call that releases them. That makes
0.10 µs of Python by message on the way out and 0.14 µs on the way in (measured apart from the library), next to 0.6 to 1 µs on
each side that the library takes for its smallest ones. It works in a thread of its own, which needs no Python lock. Names and
layouts are those of the public headers of version 1.6, for 64-bit Linux.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections import deque
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_int32, c_int64, c_ssize_t, c_uint16, c_uint32, c_void_p
from itertools import islice
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
_MESSAGE_STRIDE = 320
"""Room for a message (216 bytes) and the library's private part behind it, which a new message has all zero."""
_MESSAGE_HEAD = struct.Struct("QiI")
"""Data, size, connection."""
_MESSAGE_FUNCTIONS = struct.Struct("QQ")
"""What frees the data (nothing), what releases the message."""
_MESSAGE_FUNCTIONS_AT = 176
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


class Incoming:
    """A preallocated array of message pointers, and for each a view that follows it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pointers = (c_void_p * size)()
        self.views = [c_void_p.from_buffer(self.pointers, ctypes.sizeof(c_void_p) * index) for index in range(size)]


class Outgoing:
    """Messages with one payload in batches that go round: each is handed over again when the library is through with it.

    The library releases a message by the function that stands in it. Ours is `sigemptyset` of the C library, which does nothing
    but write zeros to where the pointer to the payload was, so that a look at the memory tells whose messages are free.
    """

    def __init__(self, connection: int, message_bytes: int, flags: int, *, batch: int, batches: int) -> None:
        self.batch = batch
        self._payload = ctypes.create_string_buffer(message_bytes)
        self._fresh = self._make_batch(connection, flags)
        self._blocks = [ctypes.create_string_buffer(len(self._fresh)) for _ in range(batches)]
        self._words = [memoryview(block).cast("B").cast("Q")[:: _MESSAGE_STRIDE // 8] for block in self._blocks]
        self._addresses = [
            (c_void_p * batch)(*(ctypes.addressof(block) + _MESSAGE_STRIDE * index for index in range(batch)))
            for block in self._blocks
        ]
        self.pointers = (c_void_p * batch)()
        """The batch that is being handed over; those already taken are None."""
        self._none = bytes(self.pointers)
        self._next = 0

    def refill(self) -> bool:
        """If all of the last batch was taken, put up the next one; False while the library still has its messages."""
        if not self.is_taken():
            return True
        if self._words[self._next].tobytes() != self._none:
            return False
        ctypes.memmove(self._blocks[self._next], self._fresh, len(self._fresh))
        ctypes.memmove(self.pointers, self._addresses[self._next], ctypes.sizeof(self.pointers))
        self._next = (self._next + 1) % len(self._blocks)
        return True

    def is_taken(self) -> bool:
        """Whether nothing of the batch is left."""
        return bytes(self.pointers) == self._none

    def count_left(self) -> int:
        """How many of the batch were not taken."""
        return 0 if self.is_taken() else self.batch - self.pointers[:].count(None)

    def _make_batch(self, connection: int, flags: int) -> bytes:
        message = bytearray(_MESSAGE_STRIDE)
        _MESSAGE_HEAD.pack_into(message, 0, ctypes.addressof(self._payload), ctypes.sizeof(self._payload), connection)
        _MESSAGE_FUNCTIONS.pack_into(message, _MESSAGE_FUNCTIONS_AT, 0, _address_of_function("sigemptyset"))
        struct.pack_into("i", message, _MESSAGE_FLAGS_AT, flags)
        return bytes(message) * self.batch


class ReferenceLibrary:
    """The library, initialised; one to a process. `is_polled` leaves out its thread: `wait` must be called instead."""

    def __init__(self, settings: dict[int, int], *, is_polled: bool = False) -> None:
        self._shared = ctypes.CDLL(os.environ[LIBRARY_VARIABLE])
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

    def send(self, outgoing: Outgoing) -> int:
        """Hand over what is left of a batch; how many messages were taken."""
        before = outgoing.count_left()
        self._send(self._sockets, outgoing.batch, outgoing.pointers, None, False)
        return before - outgoing.count_left()

    def receive(self, connection: int, incoming: Incoming) -> int:
        """Take what has arrived, as much as there is room for, and release it; how many messages it was."""
        count = int(self._receive(self._sockets, connection, incoming.pointers, incoming.size))
        if count > 0:
            deque(map(self._release, islice(incoming.views, count)), maxlen=0)
        return count

    def queued_bytes(self, connection: int) -> int:
        """What was sent and is not yet confirmed, or not yet on its way."""
        raw = ctypes.create_string_buffer(_STATUS_BYTES)
        if self._status(self._sockets, connection, raw, 0, None) != _RESULT_OK:
            return 0
        return sum(_STATUS_QUEUED.unpack_from(raw))

    def _declare(self, name: str, result: Any, *arguments: Any) -> Any:
        function = self._shared[name]
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
        # The shortest way: Python's lock is kept, and what is passed is a pointer already and need not be converted.
        self._release = ctypes.PyDLL(os.environ[LIBRARY_VARIABLE])["SteamAPI_SteamNetworkingMessage_t_Release"]
        self._release.restype = None
        self._poll = self._declare("SteamNetworkingSockets_Poll", None, c_int)

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


def _address_of_function(name: str) -> int:
    """Of the C library."""
    return ctypes.cast(ctypes.CDLL(None)[name], c_void_p).value or 0
