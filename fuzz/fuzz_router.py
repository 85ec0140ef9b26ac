"""What a router, or somebody who plays one, says about ports: PCP, NAT-PMP, UPnP."""

from __future__ import annotations

from fuzz.run import run
from peergram.address import canonical_address
from peergram.errors import WireError
from peergram.wire.pcp import decode_router_answer
from peergram.wire.upnp import (
    Place,
    decode_call_error,
    decode_description,
    decode_external_host,
    decode_http_answer,
    decode_search_answer,
    encode_call,
    encode_get,
)

DATAGRAM, SEARCH, HTTP, DESCRIPTION = range(4)
ROUTER = Place(("192.168.1.1", 5000), "/root/desc.xml")


def fuzz_one(data: bytes) -> None:
    """The first byte chooses who reads the rest: it is refused with WireError, or gives numbers in range, numeric addresses, and
    requests of one head and one body."""
    kind, data = data[0] % 4 if data else DATAGRAM, data[1:]
    try:
        if kind == DATAGRAM:
            answer = decode_router_answer(data)
            assert answer.external_host is None or canonical_address(answer.external_host, 1)[0] == answer.external_host
            assert answer.external_port is None or 0 <= answer.external_port <= 65_535
        elif kind == SEARCH:
            place = decode_search_answer(data)
            assert canonical_address(*place.address) == place.address
            assert encode_get(place).count(b"\r\n\r\n") == 1
        elif kind == HTTP:
            for is_closed in (False, True):
                found = decode_http_answer(data, is_closed=is_closed)
                assert found is None or len(found[1]) <= len(data)
        else:
            assert 0 <= decode_call_error(data) <= 9_999
            control = decode_description(data, ROUTER)
            assert control.place.address == ROUTER.address
            assert encode_call(control, "Get", {"a": "<&"}).count(b"\r\n\r\n") == 1
            decode_external_host(data)
    except WireError:
        return


def seeds() -> list[bytes]:
    """One honest answer of each kind."""
    description = (
        b"<root><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>"
        b"<controlURL>/ctl/IPConn</controlURL></service></serviceList></device></root>"
        b"<NewExternalIPAddress>203.0.113.5</NewExternalIPAddress><errorCode>718</errorCode>"
    )
    pcp = (
        bytes.fromhex("02810000000004b00000000a")
        + bytes(12)
        + bytes(12)
        + bytes.fromhex("1100000030390000303900000000000000000000")
    )
    http = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    search = b"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: http://192.168.1.1:5000/root/desc.xml\r\n\r\n"
    rows = [
        (DATAGRAM, pcp + b"\xff\xff\xcb\x00\x71\x05"),
        (DATAGRAM, bytes.fromhex("008000000000000acb007105")),
        (DATAGRAM, bytes.fromhex("008100000000000a30393039000004b0")),
        (SEARCH, search),
        (HTTP, http),
        (HTTP, chunked),
        (DESCRIPTION, description),
    ]
    return [bytes((kind,)) + data for kind, data in rows]


if __name__ == "__main__":
    run(fuzz_one, seeds())
