"""What a driver needs of an endpoint (`docs/architecture.md`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from peergram.address import Address
from peergram.identity import Identity
from peergram.io_requests import CallNote, InterfaceAddress, IoRequest, Transmit
from peergram.timing import Deadline
from peergram.wire.certificates import SignedCertificate
from peergram.wire.relay_news import RelayNews, Tickets

if TYPE_CHECKING:
    from peergram.events import Event


class DrivenEndpoint(Protocol):
    """Sans-I/O: it is told what happened and when, and asked what it wants."""

    @property
    def unread_messages(self) -> int:
        """Messages that wait for the application."""

    def poll_socket_request(self) -> IoRequest | None: ...
    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None: ...
    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None: ...
    def handle_stream_opened(self, stream_id: int, now_us: int) -> None: ...
    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> None: ...
    def handle_stream_closed(self, stream_id: int, text: str, now_us: int) -> None: ...
    def handle_name_resolved(self, name: str, addresses: list[str], now_us: int) -> None: ...
    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None: ...
    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None: ...
    def handle_timeout(self, now_us: int) -> None: ...
    def handle_signal(self, sender: Identity | None, signal: bytes, now_us: int) -> None: ...
    def poll_transmit(self, now_us: int) -> Transmit | None: ...
    def poll_memory(self) -> CallNote | None: ...
    def handle_relays(self, message: RelayNews | Tickets, now_us: int) -> None: ...
    def renew_certificate(self, certificate: SignedCertificate) -> None: ...
    def poll_known_peer(self) -> tuple[Identity, str] | None: ...
    def handle_known_peers(self, entries: Iterable[tuple[Identity, str]]) -> None: ...
    def poll_signal(self) -> tuple[Identity, bytes] | None: ...
    def poll_timeout(self) -> Deadline | None: ...
    def poll_event(self) -> Event | None: ...
    def close(self, now_us: int) -> None: ...


class PeerKeeper(Protocol):
    """Where the keys of known peers outlive the run, and where people change them."""

    @property
    def entries(self) -> list[tuple[Identity, str]]:
        """Every name and fingerprint."""

    def add(self, identity: Identity, fingerprint: str) -> bool:
        """Keep one more; never raises."""

    def reload_if_changed(self) -> bool:
        """Whether `entries` are others than before; never raises."""


class SignalCarrier(Protocol):
    """What a driver needs of a signaling service; whoever makes the service also starts it."""

    def send(self, to: Identity, signal: bytes) -> None:
        """Carry `signal` there if it can be done; never blocks."""

    def close(self) -> None:
        """End, and deliver nothing more."""
