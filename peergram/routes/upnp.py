"""A port mapping by UPnP: find the router, read its description, ask for its address and for the port.

Every exchange is one short HTTP request on a stream of its own. Whoever answers the search must be the gateway, and its
description must lie there too: nobody else in the network makes us connect anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from peergram.address import Address
from peergram.config import (
    PORT_MAPPING_LIFETIME_S,
    PORT_MAPPING_RENEW_US_MIN,
    UPNP_ANSWER_BYTES_MAX,
    UPNP_ANSWER_US,
    UPNP_PORTS_MAX,
    UPNP_SEARCH_US,
)
from peergram.errors import WireError
from peergram.io_requests import CloseStream, OpenStream
from peergram.timing import NEVER, Deadline, TimerTable
from peergram.wire.upnp import (
    CONFLICT,
    ONLY_PERMANENT_LEASES,
    SEARCH_ADDRESS,
    Control,
    Place,
    decode_call_error,
    decode_description,
    decode_external_host,
    decode_http_answer,
    decode_search_answer,
    encode_call,
    encode_get,
    encode_searches,
)

_SEARCH: Final = "search for a UPnP router"
_SEARCH_AGAIN: Final = "search for a UPnP router again"
_ANSWER: Final = "wait for the UPnP router"
_RENEW: Final = "renew the UPnP port mapping"
_SEARCH_AGAIN_US: Final = 500_000
_DESCRIPTION: Final = "description"
_PORT_MIN: Final = 1_024
_PORT_STEP: Final = 7_919
"""From one external port to the next one tried."""


class UpnpClient:
    """The mapping of one socket, once started. Drain requests and transmits."""

    def __init__(self, *, local: Address, gateway: str, next_id: Callable[[], int]) -> None:
        self.mapped: Address | None = None
        self._local = local
        self._gateway = gateway
        self._next_id = next_id
        self._control: Control | None = None
        self._external_host: str | None = None
        self._external_port = local[1]
        self._ports_tried = 1
        self._lifetime_s = PORT_MAPPING_LIFETIME_S
        self._has_mapping = False
        self._step = ""
        """What the stream in use asks for; empty: there is none."""
        self._place: Place | None = None
        self._stream_id = 0
        self._question = b""
        self._answer = bytearray()
        self._datagrams: deque[bytes] = deque()
        self._to_stream: deque[tuple[int, Address, bytes]] = deque()
        self._requests: deque[OpenStream | CloseStream] = deque()
        self._timers = TimerTable()

    @property
    def is_asking(self) -> bool:
        """Whether an answer is awaited."""
        return self._step != "" or self._timers.next() is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._step == ""

    def start(self, now_us: int) -> None:
        """Search for a router."""
        self._datagrams.extend(encode_searches())
        self._timers.set(_SEARCH, now_us + UPNP_SEARCH_US)
        self._timers.set(_SEARCH_AGAIN, now_us + _SEARCH_AGAIN_US)

    def release(self, now_us: int) -> None:
        """Give the mapping back."""
        self._end_exchange()
        self._timers = TimerTable()
        self._datagrams.clear()
        self.mapped = None
        if self._has_mapping:
            self._has_mapping = False
            port = str(self._external_port)
            self._call("DeletePortMapping", {"NewRemoteHost": "", "NewExternalPort": port, "NewProtocol": "UDP"}, now_us)

    def handle_datagram(self, source: Address, datagram: bytes, now_us: int) -> bool:
        """An answer to our search; whether it was one."""
        if source[0] != self._gateway or self._timers.at_us(_SEARCH) == NEVER or not datagram.startswith(b"HTTP/"):
            return False
        try:
            place = decode_search_answer(datagram)
        except WireError:
            return True
        if place.address[0] == self._gateway and self._step == "" and self._control is None:
            self._timers.stop(_SEARCH)
            self._timers.stop(_SEARCH_AGAIN)
            self._place = place
            self._exchange(_DESCRIPTION, place, encode_get(place), now_us)
        return True

    def handle_stream_opened(self, stream_id: int, now_us: int) -> bool:
        """The router listens; whether the stream is ours, as for the two below."""
        if stream_id != self._stream_id or self._place is None:
            return False
        self._to_stream.append((stream_id, self._place.address, self._question))
        return True

    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> bool:
        """A piece of its answer."""
        if stream_id != self._stream_id:
            return False
        self._answer += data
        self._read(now_us, is_closed=False)
        return True

    def handle_stream_closed(self, stream_id: int, now_us: int) -> bool:
        """The end of its answer."""
        if stream_id != self._stream_id:
            return False
        self._read(now_us, is_closed=True)
        return True

    def handle_timeout(self, now_us: int) -> None:
        """Give up on an exchange, or renew."""
        for name in self._timers.pop_due(now_us):
            if name == _SEARCH_AGAIN:
                self._datagrams.extend(encode_searches())
            elif name == _ANSWER:
                self._fail(now_us)
            elif name == _RENEW:
                self._map(now_us)

    def poll_transmit(self, now_us: int) -> tuple[Address, bytes] | None:
        """What to send from the socket."""
        return (SEARCH_ADDRESS, self._datagrams.popleft()) if self._datagrams else None

    def poll_stream_transmit(self) -> tuple[int, Address, bytes] | None:
        """What to send on a stream."""
        return self._to_stream.popleft() if self._to_stream else None

    def poll_request(self) -> OpenStream | CloseStream | None:
        """Streams to open and close."""
        return self._requests.popleft() if self._requests else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        return self._timers.next()

    # Inside.

    def _exchange(self, step: str, place: Place, question: bytes, now_us: int) -> None:
        self._step, self._place, self._question = step, place, question
        self._answer = bytearray()
        self._stream_id = self._next_id()
        self._requests.append(OpenStream(self._stream_id, place.address))
        self._timers.set(_ANSWER, now_us + UPNP_ANSWER_US)

    def _end_exchange(self, *, is_closed: bool = False) -> None:
        if self._stream_id and not is_closed:
            self._requests.append(CloseStream(self._stream_id))
        self._stream_id = 0
        self._step = ""
        self._timers.stop(_ANSWER)
        self._to_stream.clear()

    def _read(self, now_us: int, *, is_closed: bool) -> None:
        try:
            if len(self._answer) > UPNP_ANSWER_BYTES_MAX:
                raise WireError("an endless answer")
            answer = decode_http_answer(bytes(self._answer), is_closed=is_closed)
            if answer is not None:
                step = self._step
                self._end_exchange(is_closed=is_closed)
                self._handle_answer(step, *answer, now_us)
        except WireError:
            self._end_exchange(is_closed=is_closed)
            self._fail(now_us)

    def _handle_answer(self, step: str, status: int, body: bytes, now_us: int) -> None:
        if step == _DESCRIPTION:
            if status != 200 or self._place is None:
                raise WireError("no description")
            self._control = decode_description(body, self._place)
            self._call("GetExternalIPAddress", {}, now_us)
        elif step == "GetExternalIPAddress":
            if status != 200:
                raise WireError("no external address")
            self._external_host = decode_external_host(body)
            self._map(now_us)
        elif step == "AddPortMapping":
            self._handle_mapped(status, body, now_us)

    def _handle_mapped(self, status: int, body: bytes, now_us: int) -> None:
        if status == 200 and self._external_host is not None:
            self._has_mapping = True
            self.mapped = (self._external_host, self._external_port)
            lifetime_s = self._lifetime_s or PORT_MAPPING_LIFETIME_S
            self._timers.set(_RENEW, now_us + lifetime_s * 500_000)
            return
        error = decode_call_error(body)
        if error == ONLY_PERMANENT_LEASES and self._lifetime_s:
            self._lifetime_s = 0
        elif error == CONFLICT and self._ports_tried < UPNP_PORTS_MAX:
            self._ports_tried += 1
            self._external_port = _PORT_MIN + (self._external_port + _PORT_STEP) % (65_536 - _PORT_MIN)
        else:
            raise WireError("the router maps no port for us")
        self._map(now_us)

    def _map(self, now_us: int) -> None:
        arguments = {
            "NewRemoteHost": "",
            "NewExternalPort": str(self._external_port),
            "NewProtocol": "UDP",
            "NewInternalPort": str(self._local[1]),
            "NewInternalClient": self._local[0],
            "NewEnabled": "1",
            "NewPortMappingDescription": "peergram",
            "NewLeaseDuration": str(self._lifetime_s),
        }
        self._call("AddPortMapping", arguments, now_us)

    def _call(self, action: str, arguments: dict[str, str], now_us: int) -> None:
        if self._control is not None:
            self._exchange(action, self._control.place, encode_call(self._control, action, arguments), now_us)

    def _fail(self, now_us: int) -> None:
        """Without a mapping that is the end; one that we have may be renewed later."""
        self._end_exchange()
        if self.mapped is not None:
            self._timers.set(_RENEW, now_us + PORT_MAPPING_RENEW_US_MIN)
