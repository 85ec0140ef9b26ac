"""What a host of a lab sends and receives: every frame, read from a packet socket while the test goes on."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.interop.party import now_us

TCP, UDP = 6, 17
COOKIE = 0x2112A442

_ETH_ALL = 3
_IPV4, _IPV6 = 0x0800, 0x86DD
_ETHERNET_BYTES = 14
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 1 << 24
_FRAME_BYTES_MAX = 1 << 16
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Packet:
    """One UDP or TCP packet. The addresses are as this host sees them: behind a NAT not those its peer sees."""

    at_us: int
    protocol: int
    source: tuple[str, int]
    target: tuple[str, int]
    payload: bytes
    ip_bytes: int

    @property
    def is_stun(self) -> bool:
        """Whether this is a STUN message rather than data of a session."""
        return self.protocol == UDP and len(self.payload) >= 20 and self.payload[4:8] == COOKIE.to_bytes(4, "big")

    @property
    def stun_type(self) -> int:
        """0x001 a check, 0x101 its answer."""
        return int.from_bytes(self.payload[:2], "big") if self.is_stun else 0


class Capture:
    """Grows until it is stopped."""

    def __init__(self, packet_socket: socket.socket) -> None:
        self.packets: list[Packet] = []
        self._socket = packet_socket
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def udp(self, *, source: str | None = None, target: str | None = None) -> list[Packet]:
        """The datagrams from and to these hosts so far."""
        return [
            packet
            for packet in list(self.packets)
            if packet.protocol == UDP and source in (None, packet.source[0]) and target in (None, packet.target[0])
        ]

    def stop(self) -> None:
        """The packets stay."""
        self._is_stopped.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while not self._is_stopped.is_set():
            try:
                frame = self._socket.recv(_FRAME_BYTES_MAX)
            except TimeoutError:
                continue
            if (packet := parse(frame, now_us())) is not None:
                self.packets.append(packet)


@contextmanager
def capture(lab: Any, host: str) -> Iterator[Capture]:
    """Of all interfaces of a host of this `netlab.Lab`, both directions."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ALL))
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        made.settimeout(_POLL_S)
        return made

    running = Capture(lab.call(host, make))
    try:
        yield running
    finally:
        running.stop()


def parse(frame: bytes, at_us: int) -> Packet | None:
    """None for what is neither UDP nor TCP over IP; later fragments are not looked at either."""
    kind = int.from_bytes(frame[12:14], "big")
    ip = frame[_ETHERNET_BYTES:]
    if kind == _IPV4:
        header_bytes, ip_bytes, protocol = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big"), ip[9]
        hosts = ip[12:16], ip[16:20]
    elif kind == _IPV6:
        header_bytes, ip_bytes, protocol = 40, 40 + int.from_bytes(ip[4:6], "big"), ip[6]
        hosts = ip[8:24], ip[24:40]
    else:
        return None
    inner = ip[header_bytes:ip_bytes]
    if protocol not in (TCP, UDP) or len(inner) < 8:
        return None
    ports = struct.unpack_from(">HH", inner)
    source, target = ((str(ipaddress.ip_address(host)), port) for host, port in zip(hosts, ports, strict=True))
    payload = inner[8:] if protocol == UDP else inner[(inner[12] >> 4) * 4 :]
    return Packet(at_us, protocol, source, target, payload, ip_bytes)


def spellings(host: str) -> list[bytes]:
    """How an IPv4 address may stand in a packet: as itself, hidden as STUN does it, as text, and as text in a signal."""
    packed = ipaddress.IPv4Address(host).packed
    hidden = bytes(one ^ other for one, other in zip(packed, COOKIE.to_bytes(4, "big"), strict=True))
    text = host.encode()
    # A digit before or behind would make it another address.
    return [packed, hidden, b" " + text + b" ", (" " + host + " ").encode().hex().encode()]


def mentions(packet: Packet, host: str, *, payload_only: bool = False) -> bool:
    """Whether an address appears in a packet, as its source or target or anywhere in what it carries."""
    named = not payload_only and host in (packet.source[0], packet.target[0])
    return named or any(spelling in packet.payload for spelling in spellings(host))
