"""Requests to a router for a port that leads to us: PCP (RFC 6887) and its predecessor NAT-PMP (RFC 6886).

Both live on port 5351 of the router; the first byte of every packet is the version, 2 or 0, and a router that speaks the other
one says so in an answer of its own version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from peergram.address import Address, address_bytes, address_from_bytes
from peergram.errors import WireError

ROUTER_PORT: Final = 5351
PCP_VERSION: Final = 2
NAT_PMP_VERSION: Final = 0
PCP_NONCE_BYTES: Final = 12
RESULT_OK: Final = 0
RESULT_UNSUPPORTED_VERSION: Final = 1
"""In both protocols."""

_MAP: Final = 1
_ANSWER: Final = 0x80
_UDP_PCP: Final = 17
_PCP_REQUEST: Final = struct.Struct(">BBHI16s 12sB3xHH16s")
_PCP_ANSWER: Final = struct.Struct(">BBxBII12x")
_PCP_ANSWER_MAP: Final = struct.Struct(">12sB3xHH16s")
_PMP_MAP: Final = struct.Struct(">BBHHHI")
_PMP_ANSWER: Final = struct.Struct(">BBHI")
_PMP_ANSWER_MAP: Final = struct.Struct(">HHI")
_PMP_ADDRESS: Final = 0
_PMP_MAP_UDP: Final = 1
_ANY_IPV4: Final = ("0.0.0.0", 0)


@dataclass(slots=True)
class RouterAnswer:
    """What a router says; a refusal has no more than its result."""

    version: int
    result: int
    epoch_s: int
    """Seconds since the router forgot all mappings."""
    nonce: bytes | None = None
    """PCP: of the request that is answered."""
    internal_port: int | None = None
    external_port: int | None = None
    external_host: str | None = None
    lifetime_s: int | None = None


def encode_pcp_map(internal: Address, external: Address | None, nonce: bytes, lifetime_s: int) -> bytes:
    """Ask for a mapping of our UDP port; `external` is what we had before, lifetime 0 gives it back."""
    local = address_bytes(internal)
    wish = address_bytes(external or _ANY_IPV4)
    return _PCP_REQUEST.pack(
        PCP_VERSION, _MAP, 0, lifetime_s, local[:16], nonce, _UDP_PCP, internal[1], (external or _ANY_IPV4)[1], wish[:16]
    )


def encode_nat_pmp_address() -> bytes:
    """Ask for the router's external address."""
    return bytes((NAT_PMP_VERSION, _PMP_ADDRESS))


def encode_nat_pmp_map(internal_port: int, external_port: int, lifetime_s: int) -> bytes:
    """Ask for a mapping of our UDP port; lifetime 0 gives it back."""
    return _PMP_MAP.pack(NAT_PMP_VERSION, _PMP_MAP_UDP, 0, internal_port, external_port if lifetime_s else 0, lifetime_s)


def decode_router_answer(datagram: bytes) -> RouterAnswer:
    """An answer in either protocol. Raises WireError."""
    if len(datagram) < _PMP_ANSWER.size or not datagram[1] & _ANSWER:
        raise WireError("no answer of a router")
    if datagram[0] == PCP_VERSION:
        return _decode_pcp(datagram)
    if datagram[0] == NAT_PMP_VERSION:
        return _decode_nat_pmp(datagram)
    raise WireError("a router of an unknown version")


def _decode_pcp(datagram: bytes) -> RouterAnswer:
    if len(datagram) < _PCP_ANSWER.size:
        raise WireError("a PCP answer that is too short")
    _, opcode, result, lifetime_s, epoch_s = _PCP_ANSWER.unpack_from(datagram)
    answer = RouterAnswer(PCP_VERSION, result, epoch_s, lifetime_s=lifetime_s)
    if result != RESULT_OK and len(datagram) < _PCP_ANSWER.size + _PCP_ANSWER_MAP.size:
        return answer
    if opcode != _ANSWER | _MAP or len(datagram) < _PCP_ANSWER.size + _PCP_ANSWER_MAP.size:
        raise WireError("a PCP answer to something else")
    nonce, protocol, internal_port, external_port, host = _PCP_ANSWER_MAP.unpack_from(datagram, _PCP_ANSWER.size)
    if protocol != _UDP_PCP:
        raise WireError("a PCP mapping of another protocol")
    answer.nonce, answer.internal_port, answer.external_port = nonce, internal_port, external_port
    answer.external_host = address_from_bytes(host + bytes(2))[0]
    return answer


def _decode_nat_pmp(datagram: bytes) -> RouterAnswer:
    _, opcode, result, epoch_s = _PMP_ANSWER.unpack_from(datagram)
    answer = RouterAnswer(NAT_PMP_VERSION, result, epoch_s)
    if result != RESULT_OK:
        return answer
    rest = datagram[_PMP_ANSWER.size :]
    if opcode == _ANSWER | _PMP_ADDRESS and len(rest) >= 4:
        answer.external_host = address_from_bytes(bytes(10) + b"\xff\xff" + rest[:4] + bytes(2))[0]
    elif opcode == _ANSWER | _PMP_MAP_UDP and len(rest) >= _PMP_ANSWER_MAP.size:
        answer.internal_port, answer.external_port, answer.lifetime_s = _PMP_ANSWER_MAP.unpack_from(rest)
    else:
        raise WireError("a NAT-PMP answer to something else")
    return answer
