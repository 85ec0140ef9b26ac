"""A STUN server for labs: tells everybody who asks from where the question came, whatever else the question holds.

    python -m tests.scenarios.lab_stun 203.0.113.2 [203.0.113.3 ...]

It listens on port 3478. The reference's first question carries an attribute that servers may refuse to understand, and some do;
this one does not look.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import sys

PORT = 3_478
_COOKIE = 0x2112A442
_DATAGRAM_BYTES_MAX = 2_048


def binding_answer(question: bytes, source: tuple[str, int]) -> bytes | None:
    """The success response with XOR-MAPPED-ADDRESS (RFC 8489, 14.2); None for whatever is no binding request."""
    if len(question) < 20:
        return None
    kind, _, cookie, transaction = struct.unpack_from(">HHI12s", question)
    if kind != 1 or cookie != _COOKIE:
        return None
    address = ipaddress.ip_address(source[0])
    mask = (struct.pack(">I", _COOKIE) + transaction)[: len(address.packed)]
    hidden = bytes(one ^ other for one, other in zip(address.packed, mask, strict=True))
    attribute = struct.pack(">BBH", 0, 1 if address.version == 4 else 2, source[1] ^ (_COOKIE >> 16)) + hidden
    return struct.pack(">HHI12sHH", 0x0101, len(attribute) + 4, _COOKIE, transaction, 0x0020, len(attribute)) + attribute


def main(hosts: list[str]) -> None:
    """Until killed."""
    sockets = []
    for host in hosts:
        sockets.append(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM))
        sockets[-1].bind((host, PORT))
    print("listening", flush=True)
    while True:
        for ready in select.select(sockets, [], [])[0]:
            question, source = ready.recvfrom(_DATAGRAM_BYTES_MAX)
            if answer := binding_answer(question, source[:2]):
                ready.sendto(answer, source)


if __name__ == "__main__":
    main(sys.argv[1:])
