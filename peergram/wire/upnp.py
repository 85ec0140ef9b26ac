"""What passes between us and a router that speaks UPnP (Internet Gateway Device 1 and 2): search, description, three calls.

Descriptions come from whoever answers in the local network. They are searched for the few elements that matter instead of being
parsed: no entities, no documents elsewhere, and a length that the caller limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape, unescape
from typing import Final

from peergram.address import Address, canonical_address, format_address
from peergram.errors import UsageError, WireError

SEARCH_ADDRESS: Final[Address] = ("239.255.255.250", 1900)
CONFLICT: Final = 718
"""Somebody else has that external port."""
ONLY_PERMANENT_LEASES: Final = 725

_SEARCH_TARGETS: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)
_SERVICE: Final = re.compile(rb"urn:schemas-upnp-org:service:WAN(?:IP|PPP)Connection:[1-9]\Z")
_LOCATION: Final = re.compile(
    rb"^location:[ \t]*http://([0-9.]{7,15})(?::([0-9]{1,5}))?(/[\x21-\x7e]{0,255})[ \t]*\r?$", re.I | re.M
)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")
_PATH: Final = re.compile(rb"(?:http://[0-9.]{7,15}(?::[0-9]{1,5})?)?(/?[\x21-\x7e]{1,255})\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a router can be asked: its numeric address, and a path there."""

    address: Address
    path: str


@dataclass(frozen=True, slots=True)
class Control:
    """A service of the router that maps ports."""

    place: Place
    service: str


def encode_searches() -> list[bytes]:
    """The datagrams that ask all routers of the network for an answer within a second."""
    return [
        (
            "M-SEARCH * HTTP/1.1\r\n"
            f"HOST: {format_address(SEARCH_ADDRESS)}\r\n"
            'MAN: "ssdp:discover"\r\n'
            "MX: 1\r\n"
            f"ST: {target}\r\n\r\n"
        ).encode()
        for target in _SEARCH_TARGETS
    ]


def decode_search_answer(datagram: bytes) -> Place:
    """Where the description is. Raises WireError."""
    status = _STATUS.match(datagram)
    location = _LOCATION.search(datagram)
    if status is None or status[1] != b"200" or location is None:
        raise WireError("no answer to a search for routers")
    return Place(_address(location[1].decode(), int(location[2] or b"80")), location[3].decode())


def encode_get(place: Place) -> bytes:
    """The request for a description."""
    return f"GET {place.path} HTTP/1.1\r\nHost: {format_address(place.address)}\r\nConnection: close\r\n\r\n".encode()


def encode_call(control: Control, action: str, arguments: dict[str, str]) -> bytes:
    """The request that calls `action`."""
    fields = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments.items())
    body = (
        '<?xml version="1.0"?>\r\n'
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{control.service}">{fields}</u:{action}></s:Body></s:Envelope>\r\n'
    ).encode()
    head = (
        f"POST {control.place.path} HTTP/1.1\r\n"
        f"Host: {format_address(control.place.address)}\r\n"
        'Content-Type: text/xml; charset="utf-8"\r\n'
        f"Content-Length: {len(body)}\r\n"
        f'SOAPAction: "{control.service}#{action}"\r\n'
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def decode_http_answer(data: bytes, *, is_closed: bool) -> tuple[int, bytes] | None:
    """Status and body once all of the answer is there, None before. Raises WireError."""
    if len(data) >= 12 and _STATUS.match(data) is None:
        raise WireError("no HTTP answer")
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        if is_closed:
            raise WireError("an HTTP answer without an end of its head")
        return None
    status = _STATUS.match(head)
    if status is None:
        raise WireError("no HTTP answer")
    if re.search(rb"^transfer-encoding:[ \t]*chunked", head, re.I | re.M):
        whole = _unchunked(body)
    else:
        length = re.search(rb"^content-length:[ \t]*([0-9]{1,9})[ \t]*\r?$", head, re.I | re.M)
        whole = None if length is None or len(body) < int(length[1]) else body[: int(length[1])]
    if whole is None and is_closed:
        whole = body
    return None if whole is None else (int(status[1]), whole)


def decode_description(body: bytes, place: Place) -> Control:
    """The first service of a router's description that maps ports. Raises WireError."""
    for rest in body.split(b"<service>")[1:]:
        block = rest.partition(b"</service>")[0]
        service, path = _element(block, b"serviceType"), _element(block, b"controlURL")
        if _SERVICE.match(service) and (match := _PATH.match(path)):
            relative = match[1].decode()
            if not relative.startswith("/"):
                relative = place.path.rpartition("/")[0] + "/" + relative
            return Control(Place(place.address, relative), service.decode())
    raise WireError("a router that maps no ports")


def decode_external_host(body: bytes) -> str:
    """The address in an answer to GetExternalIPAddress. Raises WireError."""
    text = _element(body, b"NewExternalIPAddress")
    try:
        return canonical_address(text.decode("ascii"), 1)[0]
    except (UsageError, UnicodeDecodeError) as error:
        raise WireError("no address") from error


def decode_call_error(body: bytes) -> int:
    """UPnP's own number of what went wrong, 0 if there is none."""
    text = _element(body, b"errorCode")
    return int(text) if text.isdigit() and len(text) <= 4 else 0


def _address(host: str, port: int) -> Address:
    try:
        return canonical_address(host, port)
    except UsageError as error:
        raise WireError("no address") from error


def _element(body: bytes, name: bytes) -> bytes:
    """Content of the first element of that name that holds text only; empty if there is none."""
    match = re.search(rb"<" + name + rb"(?:[ \t][^<>]{0,200})?>([^<>]{0,512})</" + name + rb">", body)
    return b"" if match is None else unescape(match[1].decode("utf-8", "replace")).strip().encode()


def _unchunked(data: bytes) -> bytes | None:
    parts: list[bytes] = []
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return None
        size_text = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,6}", size_text):
            raise WireError("no chunk")
        size = int(size_text, 16)
        if size == 0:
            return b"".join(parts)
        if len(data) < size + 2:
            return None
        parts.append(data[:size])
        data = data[size + 2 :]
