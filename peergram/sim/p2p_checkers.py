"""Promises of endpoints that find peers by name, in worlds with a topology: V11, and what V13 and V18 say there.

| V11 | no data to an address without consent in the last 30 s: an answered check, or data from there while consent lasted |
| V13 | no timer in the past, no busy timer (checks of consent are no quiet, so that idle packets are not counted) |
| V18 | every datagram is a STUN message, ChannelData, a question to a router or a packet of the format, also inside a relay |

What a relay carries is looked into: the peer's address behind a relay counts as another one than the same address without it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from peergram.address import Address
from peergram.errors import WireError
from peergram.sim.checkers import V13, V18, Checker
from peergram.sim.wire_check import DATA
from peergram.wire.stun import Class, Method, StunMessage, decode_channel_data, decode_stun, looks_like_stun

if TYPE_CHECKING:
    from peergram.sim.world import Host

CONSENT_US = 30_000_000
"""RFC 7675 §5.1."""
CHANNEL_LEADS = range(0x40, 0x50)

PCP_PORT, SSDP_PORT = 5351, 1900

Way = tuple[int, int, Address, bool]
"""Host, its run, the peer's address, whether behind a relay."""


class RelayTap:
    """Looks into what goes to relays and comes from them; learns channels from the requests that bind them."""

    def __init__(self) -> None:
        self._channels: dict[tuple[int, int, Address, int], Address] = {}

    def unwrap(self, host: Host, remote: Address, packet: bytes) -> tuple[Way, bytes] | None:
        """The innermost datagram with the way it takes; None for what a relay itself is told or tells. Raises WireError."""
        if packet and packet[0] in CHANNEL_LEADS:
            channel, inner = decode_channel_data(packet)
            peer = self._channels.get((host.index, host.run, remote, channel))
            return None if peer is None else ((host.index, host.run, peer, True), inner)
        if looks_like_stun(packet):
            message = decode_stun(packet)
            if message.method in (Method.SEND, Method.DATA) and message.data is not None and message.xor_peer_addresses:
                return (host.index, host.run, message.xor_peer_addresses[0], True), message.data
            if message.method != Method.BINDING:
                self._learn(host, remote, message)
                return None
        return (host.index, host.run, remote, False), packet

    def _learn(self, host: Host, remote: Address, message: StunMessage) -> None:
        if message.method == Method.CHANNEL_BIND and message.channel_number is not None and message.xor_peer_addresses:
            self._channels[host.index, host.run, remote, message.channel_number] = message.xor_peer_addresses[0]


class V11(Checker):
    """Consent."""

    def __init__(self) -> None:
        self._tap = RelayTap()
        self._asked: dict[Way, set[bytes]] = defaultdict(set)
        self._consent_us: dict[Way, int] = {}

    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None:
        way, inner = self._unwrap(host, destination, packet)
        if way is None:
            return
        if looks_like_stun(inner):
            self._asked[way].add(inner[8:20])
        elif inner and inner[0] & DATA and not self._lasts(way):
            since = self._consent_us.get(way)
            seen = "never" if since is None else f"{self.world.now_us - since} us ago"
            behind = "relayed " if way[3] else ""
            self.violate(host, f"data to {behind}{way[2]}, whose consent came {seen}")

    def packets_in(self, host: Host, source: Address, packets: list[bytes]) -> None:
        for packet in packets:
            way, inner = self._unwrap(host, source, packet)
            if way is None:
                continue
            if looks_like_stun(inner):
                answer = decode_stun(inner)
                if answer.message_class == Class.SUCCESS and answer.transaction_id in self._asked[way]:
                    self._consent_us[way] = self.world.now_us
            elif inner and inner[0] & DATA and self._lasts(way):
                self._consent_us[way] = self.world.now_us

    def _lasts(self, way: Way) -> bool:
        since = self._consent_us.get(way)
        return since is not None and self.world.now_us - since <= CONSENT_US

    def _unwrap(self, host: Host, remote: Address, packet: bytes) -> tuple[Way | None, bytes]:
        """What a link damaged says nothing."""
        try:
            unwrapped = self._tap.unwrap(host, remote, packet)
            if unwrapped is not None and looks_like_stun(unwrapped[1]):
                decode_stun(unwrapped[1])
        except WireError:
            return None, b""
        return unwrapped or (None, b"")


class TimersOnly(V13):
    """V13 without the quiet of an idle session."""

    @property
    def name(self) -> str:
        """As in the list of invariants."""
        return "V13"

    def phase_entered(self, phase: str) -> None:
        """Nothing is counted."""


class WireOrRelay(V18):
    """V18 with STUN, relays and questions to routers."""

    def __init__(self) -> None:
        self._tap = RelayTap()

    @property
    def name(self) -> str:
        """As in the list of invariants."""
        return "V18"

    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None:
        if destination[1] in (PCP_PORT, SSDP_PORT):
            if not asks_router(destination[1], packet):
                self.violate(host, f"packet of {len(packet)} bytes to {destination} that asks a router nothing")
            return
        try:
            unwrapped = self._tap.unwrap(host, destination, packet)
            if unwrapped is None:
                return
            (_, _, peer, _), inner = unwrapped
            if looks_like_stun(inner):
                decode_stun(inner)
                return
        except WireError as error:
            self.violate(host, f"packet of {len(packet)} bytes to {destination}: {error}")
            return
        super().packet_out(host, source, peer, inner)


def asks_router(port: int, packet: bytes) -> bool:
    """Whether this is a question for a port mapping: SSDP, PCP (RFC 6887 §7.1, §11.1) or NAT-PMP (RFC 6886 §3.2, §3.3)."""
    if port == SSDP_PORT:
        return packet.startswith(b"M-SEARCH * HTTP/1.1\r\n") and packet.endswith(b"\r\n\r\n")
    if packet[:1] == b"\x02":
        return packet[1:2] == b"\x01" and len(packet) == 60
    return packet == b"\x00\x00" or (packet[:4] == b"\x00\x01\x00\x00" and len(packet) == 12)
