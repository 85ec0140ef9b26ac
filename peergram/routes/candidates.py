"""Candidates: addresses that may reach a peer, their priorities, and their text in signals (03, chapters 10.1 and 10.2).

Text from a peer is taken strictly: numeric addresses only, UDP only, every number in range. What the agent must never send to,
whatever a peer lists, is decided here too (I2, I5).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from peergram.address import PORT_MAX, Address, canonical_address, is_local, is_loopback
from peergram.config import ICE_CANDIDATE_BYTES_MAX
from peergram.errors import UsageError, WireError

PRIORITY_MAX: Final = (1 << 31) - 1
"""The reference reads priorities as signed 32-bit numbers."""
_COMPONENT: Final = 0
"""What the reference writes, where the RFC has 1."""
_UFRAG_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_LOW_STEP_MAX: Final = 599
_ADDRESSES_CACHED: Final = 4_096
_SUBNET_BITS_4: Final = 24
_SUBNET_BITS_6: Final = 64
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")


class CandidateKind(Enum):
    """How an address was found; the value is its word in candidate text."""

    HOST = "host"
    PEER_REFLEXIVE = "prflx"
    SERVER_REFLEXIVE = "srflx"
    RELAYED = "relay"


_TYPE_PREFERENCE: Final = {
    CandidateKind.HOST: 126,
    CandidateKind.PEER_REFLEXIVE: 110,
    CandidateKind.SERVER_REFLEXIVE: 100,
    CandidateKind.RELAYED: 0,
}
_LOW_PRIORITY: Final = {
    CandidateKind.HOST: 3_000,
    CandidateKind.PEER_REFLEXIVE: 2_400,
    CandidateKind.SERVER_REFLEXIVE: 1_800,
    CandidateKind.RELAYED: 1_200,
}


@dataclass(frozen=True, slots=True)
class Base:
    """Where datagrams leave: a socket, or a relay allocation reached through it."""

    socket_id: int
    relay_id: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address, as it is told to the other side."""

    kind: CandidateKind
    address: Address
    priority: int
    foundation: str


@dataclass(frozen=True, slots=True)
class LocalCandidate:
    """A candidate of ours and the base behind it. `base_address` is the socket's own address, or the relayed one of a relay;
    `prefix_bits` the length of its network's prefix, None where nobody knows."""

    candidate: Candidate
    base: Base
    base_address: Address
    local_preference: int
    prefix_bits: int | None = None


def ufrag_of(connection_id: int) -> bytes:
    """The name of one side in checks: the low 30 bits of its connection id, six at a time."""
    return bytes(_UFRAG_LETTERS[(connection_id >> shift) & 63] for shift in (24, 18, 12, 6, 0))


def priority_of(kind: CandidateKind, local_preference: int) -> int:
    """RFC 8445 section 5.1.2.1 with the reference's type preferences; `local_preference` from 0 to 65535."""
    return (_TYPE_PREFERENCE[kind] << 24) | (local_preference << 8) | 255


def low_priority_of(kind: CandidateKind, local_preference: int) -> int:
    """The same order in numbers of at most 3000, below all that the reference uses: with them our number decides in every pair,
    and a later check with a larger one moves a reference peer to any path (03, chapter 13)."""
    return _LOW_PRIORITY[kind] - min(65_535 - local_preference, _LOW_STEP_MAX)


def low_candidate(local: LocalCandidate) -> Candidate:
    """The candidate as it is announced under low priorities."""
    return replace(local.candidate, priority=low_priority_of(local.candidate.kind, local.local_preference))


def foundation_of(kind: CandidateKind, base_address: Address, server: Address | None) -> str:
    """A decimal number, equal for candidates of one kind, base host and server (RFC 8445 section 5.1.1.3)."""
    text = f"{kind.value} {base_address[0]} {server[0] if server else ''}"
    return str(zlib.crc32(text.encode()))


def encode_candidate(candidate: Candidate) -> str:
    """The reference's text of a candidate."""
    host, port = candidate.address
    return f"candidate:{candidate.foundation} {_COMPONENT} udp {candidate.priority} {host} {port} typ {candidate.kind.value}"


def decode_candidate(text: str | bytes) -> Candidate:
    """Read a peer's candidate. Raises WireError for anything that we cannot send UDP to, or do not know."""
    fields = _candidate_fields(text)
    foundation, component, transport, priority, host, port, typ, kind, *extensions = fields
    if typ != "typ" or transport.lower() != "udp" or len(extensions) % 2:
        raise WireError("not a candidate for UDP")
    if not 1 <= len(foundation) <= 32:
        raise WireError("a candidate's foundation has 1 to 32 characters")
    _whole_number(component, 256)
    return Candidate(
        kind=_kind(kind),
        address=_candidate_address(host, _whole_number(port, PORT_MAX)),
        priority=_whole_number(priority, PRIORITY_MAX),
        foundation=foundation,
    )


def _candidate_fields(text: str | bytes) -> list[str]:
    if len(text) > ICE_CANDIDATE_BYTES_MAX:
        raise WireError("a candidate's text is too long")
    try:
        line = text if isinstance(text, str) else text.decode("ascii")
    except UnicodeDecodeError as error:
        raise WireError("a candidate's text is ASCII") from error
    head, colon, rest = line.partition(":")
    if head != "candidate" or not colon or not line.isascii() or not line.isprintable():
        raise WireError("not a candidate")
    if not rest or rest.startswith(" ") or rest.endswith(" "):
        raise WireError("a candidate has no space at its ends")
    fields = [field for field in rest.split(" ") if field]
    if len(fields) < 8:
        raise WireError("a candidate has eight fields at least")
    return fields


def _whole_number(text: str, largest: int) -> int:
    if not 1 <= len(text) <= 10 or not text.isdecimal() or int(text) > largest:
        raise WireError(f"{text[:12]!r} is not a number from 0 to {largest}")
    return int(text)


def _kind(text: str) -> CandidateKind:
    try:
        return CandidateKind(text)
    except ValueError as error:
        raise WireError("a candidate of an unknown type") from error


def _candidate_address(host: str, port: int) -> Address:
    # A zone names a link of the peer's machine, and an IPv4 address in IPv6 notation would be a second spelling.
    if port == 0 or "%" in host or (":" in host and "." in host):
        raise WireError("a candidate without a usable address")
    try:
        address = canonical_address(host, port)
    except UsageError as error:
        raise WireError("a candidate's address is numeric") from error
    if ":" in host and ":" not in address[0]:
        raise WireError("an IPv4 address in IPv6 notation")
    return address


def is_usable(address: Address, *, allow_loopback: bool) -> bool:
    """Whether a check may go there at all: never to many hosts at once, to no host, or to another link; to this machine only if
    we gathered its own addresses (I2)."""
    return address[1] != 0 and "%" not in address[0] and _is_usable_host(address[0], allow_loopback)


@lru_cache(_ADDRESSES_CACHED)
def _is_usable_host(host: str, allow_loopback: bool) -> bool:
    address = ip_address(host)
    if address.is_loopback:
        return allow_loopback
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    # 240.0.0.0/4 holds the broadcast address; IPv6's reserved space holds NAT64, which is in use.
    return not (isinstance(address, IPv4Address) and (address.is_reserved or address in _THIS_NETWORK))


def is_broadcast(address: Address, local: LocalCandidate) -> bool:
    """Whether this is the broadcast address of the network that `local` lies in."""
    if local.prefix_bits is None or local.prefix_bits >= 31 or ":" in address[0]:
        return False
    network = _network(local.base_address[0], local.prefix_bits)
    return isinstance(network, IPv4Network) and str(network.broadcast_address) == address[0]


def may_pair(local: LocalCandidate, address: Address) -> bool:
    """Whether datagrams from this base can arrive at that address: one family, both on this machine or neither."""
    own = local.base_address
    if (":" in own[0]) != (":" in address[0]) or address == own or is_broadcast(address, local):
        return False
    return is_loopback(own) == is_loopback(address)


def is_same_subnet(local: LocalCandidate, address: Address) -> bool:
    """Whether the address lies in the network of a base with a private address; both sides put such pairs first (10.5)."""
    own = local.base_address
    if local.base.relay_id or not is_local(own) or (":" in own[0]) != (":" in address[0]):
        return False
    bits = local.prefix_bits
    if bits is None:
        bits = _SUBNET_BITS_6 if ":" in own[0] else _SUBNET_BITS_4
    return _is_within(address[0], own[0], bits)


@lru_cache(_ADDRESSES_CACHED)
def _is_within(host: str, own_host: str, bits: int) -> bool:
    return ip_address(host) in _network(own_host, bits)


@lru_cache(_ADDRESSES_CACHED)
def _network(host: str, bits: int) -> IPv4Network | IPv6Network:
    return ip_network(f"{host.partition('%')[0]}/{bits}", strict=False)
