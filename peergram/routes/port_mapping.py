"""A port of the router that leads to one of our sockets: asked for by PCP, else NAT-PMP, else UPnP.

The router is the gateway of the socket's interface. Answers count from there only, and only to a question under way; PCP's carry
our nonce besides. What we get is renewed at half its lifetime, which is short enough for a router that restarts and forgets, and
given back at the end. A router that does not answer any protocol is left alone until the network changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from peergram.address import Address, is_local
from peergram.config import (
    PORT_MAPPING_ATTEMPTS_MAX,
    PORT_MAPPING_LIFETIME_S,
    PORT_MAPPING_RELEASE_US,
    PORT_MAPPING_RENEW_US_MIN,
)
from peergram.errors import WireError
from peergram.io_requests import CloseStream, OpenStream
from peergram.routes.candidates import is_usable
from peergram.routes.transaction import Transaction
from peergram.routes.upnp import UpnpClient
from peergram.timing import NEVER, Deadline, TimerTable
from peergram.wire.pcp import (
    NAT_PMP_VERSION,
    PCP_NONCE_BYTES,
    PCP_VERSION,
    RESULT_OK,
    RESULT_UNSUPPORTED_VERSION,
    ROUTER_PORT,
    RouterAnswer,
    decode_router_answer,
    encode_nat_pmp_address,
    encode_nat_pmp_map,
    encode_pcp_map,
)

_RENEW: Final = "renew the port mapping"
_EXPIRY: Final = "the port mapping ends"
_RELEASE: Final = "give up on releasing the port"


class PortMapper:
    """The mapping of one socket. Starts when made; drain requests and transmits; `mapped` is what we have."""

    def __init__(
        self,
        *,
        local: Address,
        gateway: str,
        entropy: Callable[[int], bytes],
        next_id: Callable[[], int],
        now_us: int,
    ) -> None:
        self.mapped: Address | None = None
        self.gateway = gateway
        self.is_gone = False
        """Given back, or nothing to give back."""
        self._local = local
        self._router = (gateway, ROUTER_PORT)
        self._nonce = entropy(PCP_NONCE_BYTES)
        self._version: int | None = PCP_VERSION
        """None: the router speaks neither protocol."""
        self._external_host: str | None = None
        self._external_port = 0
        self._is_releasing = False
        self._requests: list[Transaction] = []
        self._timers = TimerTable()
        self._upnp = UpnpClient(local=local, gateway=gateway, next_id=next_id)
        self._ask(now_us)

    @property
    def is_asking(self) -> bool:
        """Whether a mapping may still come soon."""
        return self.mapped is None and (bool(self._requests) or self._upnp.is_asking)

    @property
    def is_useless(self) -> bool:
        """Whether the router offers nothing."""
        return self.mapped is None and not self.is_asking

    def release(self, now_us: int) -> None:
        """Give the mapping back; `is_gone` when that is done, or has had its time."""
        self._requests.clear()
        self._timers = TimerTable()
        self._is_releasing = True
        had = self.mapped is not None
        self.mapped = None
        self._upnp.release(now_us)
        if had and self._version is not None:
            self._send(self._map_request(0), now_us)
        self._timers.set(_RELEASE, now_us + PORT_MAPPING_RELEASE_US)
        self._see_if_gone()

    def handle_datagram(self, source: Address, datagram: bytes, now_us: int) -> bool:
        """What came from the router; whether it was for us."""
        if source != self._router:
            if self._upnp.handle_datagram(source, datagram, now_us):
                self._settle(now_us)
                return True
            return False
        try:
            answer = decode_router_answer(datagram)
        except WireError:
            return False
        if not self._requests or self._is_late(answer):
            return True
        if answer.version != self._version or answer.result != RESULT_OK:
            self._handle_refusal(answer, now_us)
        elif self._is_for_us(answer):
            self._handle_answer(answer, now_us)
        self._settle(now_us)
        return True

    def handle_stream_opened(self, stream_id: int, now_us: int) -> bool:
        """A stream to the router is open; whether it is ours, as for the two below."""
        return self._upnp.handle_stream_opened(stream_id, now_us)

    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> bool:
        """What the router says there."""
        is_ours = self._upnp.handle_stream_data(stream_id, data, now_us)
        if is_ours:
            self._settle(now_us)
        return is_ours

    def handle_stream_closed(self, stream_id: int, now_us: int) -> bool:
        """It has said all, or will never say anything."""
        is_ours = self._upnp.handle_stream_closed(stream_id, now_us)
        if is_ours:
            self._settle(now_us)
        return is_ours

    def handle_timeout(self, now_us: int) -> None:
        """Repeat, renew, give up what is due."""
        for name in self._timers.pop_due(now_us):
            if name == _RENEW:
                self._ask(now_us)
            elif name == _EXPIRY:
                self.mapped = None
            else:
                self._requests.clear()
                self.is_gone = True
        if any(request.is_spent(now_us) for request in self._requests):
            self._handle_silence(now_us)
        self._upnp.handle_timeout(now_us)
        self._settle(now_us)

    def poll_transmit(self, now_us: int) -> tuple[Address, bytes] | None:
        """What to send from the socket."""
        for request in self._requests:
            if (datagram := request.take(now_us)) is not None:
                return self._router, datagram
        return self._upnp.poll_transmit(now_us)

    def poll_stream_transmit(self) -> tuple[int, Address, bytes] | None:
        """What to send on a stream."""
        return self._upnp.poll_stream_transmit()

    def poll_request(self) -> OpenStream | CloseStream | None:
        """Streams to open and close."""
        return self._upnp.poll_request()

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        due_us = min((request.due_at_us for request in self._requests), default=NEVER)
        parts = [Deadline(due_us, "port mapping")] if due_us < NEVER else []
        parts += [deadline for deadline in (self._timers.next(), self._upnp.poll_timeout()) if deadline is not None]
        return min(parts, default=None)

    # Inside.

    def _ask(self, now_us: int) -> None:
        self._requests.clear()
        if self._version is None:
            return
        self._send(self._map_request(PORT_MAPPING_LIFETIME_S), now_us)
        if self._version == NAT_PMP_VERSION:
            self._send(encode_nat_pmp_address(), now_us)

    def _map_request(self, lifetime_s: int) -> bytes:
        if self._version == NAT_PMP_VERSION:
            return encode_nat_pmp_map(self._local[1], self._external_port or self._local[1], lifetime_s)
        external = None
        if self._external_port:
            external = (self._external_host or "0.0.0.0", self._external_port if lifetime_s else 0)
        return encode_pcp_map(self._local, external, self._nonce, lifetime_s)

    def _send(self, datagram: bytes, now_us: int) -> None:
        self._requests.append(Transaction(b"", datagram, now_us, sends_max=PORT_MAPPING_ATTEMPTS_MAX))

    def _is_late(self, answer: RouterAnswer) -> bool:
        """Whether this may answer what was asked by PCP before: it says nothing about NAT-PMP."""
        is_old = answer.version == PCP_VERSION or answer.result == RESULT_UNSUPPORTED_VERSION
        return self._version == NAT_PMP_VERSION and is_old

    def _is_for_us(self, answer: RouterAnswer) -> bool:
        if answer.version == PCP_VERSION and answer.nonce != self._nonce:
            return False
        return answer.internal_port in (None, self._local[1])

    def _handle_answer(self, answer: RouterAnswer, now_us: int) -> None:
        if self._is_releasing:
            self._requests.clear()
            return
        if answer.external_host is not None:
            self._external_host = answer.external_host
            self._drop_request(is_map=answer.version == PCP_VERSION)
        if answer.external_port is not None and answer.lifetime_s:
            self._external_port = answer.external_port
            lifetime_us = min(answer.lifetime_s, PORT_MAPPING_LIFETIME_S) * 1_000_000
            self._timers.set(_RENEW, now_us + max(lifetime_us // 2, PORT_MAPPING_RENEW_US_MIN))
            self._timers.set(_EXPIRY, now_us + max(lifetime_us, 2 * PORT_MAPPING_RENEW_US_MIN))
            self._drop_request(is_map=True)
        if self._external_host is not None and self._external_port:
            mapped = (self._external_host, self._external_port)
            self.mapped = mapped if is_usable(mapped, allow_loopback=False) and not is_local(mapped) else None

    def _drop_request(self, *, is_map: bool) -> None:
        """That question has its answer."""
        address_request = encode_nat_pmp_address()
        self._requests = [each for each in self._requests if (each.datagram == address_request) == is_map]

    def _handle_refusal(self, answer: RouterAnswer, now_us: int) -> None:
        if self._is_releasing:
            self._requests.clear()
        else:
            # It speaks another version, or this one and does not want to: by another protocol it may.
            self._next_protocol(now_us)

    def _handle_silence(self, now_us: int) -> None:
        self._requests.clear()
        if self._is_releasing:
            return
        if self._external_port:
            # It has given us one before, which lives until its end, and will again.
            self._timers.set(_RENEW, now_us + PORT_MAPPING_RENEW_US_MIN)
        else:
            self._next_protocol(now_us)

    def _next_protocol(self, now_us: int) -> None:
        self._requests.clear()
        self._external_port = 0
        self._external_host = None
        self.mapped = None
        self._timers = TimerTable()
        if self._version == PCP_VERSION:
            self._version = NAT_PMP_VERSION
            self._ask(now_us)
        else:
            self._version = None
            self._upnp.start(now_us)

    def _settle(self, now_us: int) -> None:
        if self._version is None and not self._is_releasing:
            mapped = self._upnp.mapped
            ok = mapped is not None and is_usable(mapped, allow_loopback=False) and not is_local(mapped)
            self.mapped = mapped if ok else None
        self._see_if_gone()

    def _see_if_gone(self) -> None:
        if self._is_releasing and not self._requests and self._upnp.is_idle:
            self.is_gone = True
            self._timers = TimerTable()
