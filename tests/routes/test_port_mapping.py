"""A port of the router, by whichever protocol it speaks; and routers that lie."""

from __future__ import annotations

import heapq
import re
import struct
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest

from peergram.address import Address
from peergram.config import (
    PORT_MAPPING_ATTEMPTS_MAX,
    PORT_MAPPING_LIFETIME_S,
    PORT_MAPPING_RELEASE_US,
    PORT_MAPPING_RENEW_US_MIN,
    UPNP_ANSWER_BYTES_MAX,
    UPNP_ANSWER_US,
    UPNP_PORTS_MAX,
    UPNP_SEARCH_US,
)
from peergram.io_requests import CloseStream, OpenStream
from peergram.routes.port_mapping import PortMapper
from peergram.wire.pcp import ROUTER_PORT
from peergram.wire.upnp import SEARCH_ADDRESS
from tests.routes.servers import counting_entropy

SECOND = 1_000_000
LOCAL: Address = ("192.168.1.5", 40_000)
GATEWAY = "192.168.1.1"
ROUTER: Address = (GATEWAY, ROUTER_PORT)
OUTSIDE = "203.0.113.5"


class Router:
    """Speaks what it is told to speak."""

    def __init__(self, *, pcp: bool = False, nat_pmp: bool = False, upnp: bool = False) -> None:
        self.pcp, self.nat_pmp, self.upnp = pcp, nat_pmp, upnp
        self.lifetime_s = PORT_MAPPING_LIFETIME_S
        self.host = OUTSIDE
        self.mappings: dict[int, int] = {}
        self.taken: set[int] = set()
        self.only_permanent = False
        self.is_silent = False
        self.asked: list[bytes] = []
        self.calls: list[str] = []
        self.location = f"http://{GATEWAY}:5000/desc/root.xml"

    def handle(self, to: Address, data: bytes) -> list[tuple[Address, bytes]]:
        self.asked.append(data)
        if self.is_silent:
            return []
        if to == ROUTER:
            return [(ROUTER, reply) for reply in self._map(data)]
        if to == SEARCH_ADDRESS and self.upnp:
            answer = f"HTTP/1.1 200 OK\r\nST: x\r\nLocation: {self.location}\r\nEXT:\r\n\r\n"
            return [((GATEWAY, 1900), answer.encode())]
        return []

    def http(self, data: bytes) -> bytes:
        text = data.decode()
        if text.startswith("GET "):
            assert text.startswith("GET /desc/root.xml HTTP/1.1\r\n")
            return self._ok(
                "<root><serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType>"
                "<controlURL>/l3</controlURL></service><service>\n<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1"
                "</serviceType>\n<controlURL>ctl</controlURL></service></serviceList></root>"
            )
        assert text.startswith("POST /desc/ctl HTTP/1.1\r\n")
        match = re.search(r'SOAPAction: "urn:schemas-upnp-org:service:WANIPConnection:1#(\w+)"', text)
        assert match is not None
        action = match[1]
        self.calls.append(action)
        fields = dict(re.findall(r"<(New\w+)>([^<]*)</", text))
        if action == "GetExternalIPAddress":
            return self._ok(f"<NewExternalIPAddress>{self.host}</NewExternalIPAddress>")
        port = int(fields["NewExternalPort"])
        if action == "DeletePortMapping":
            del self.mappings[port]
            return self._ok("")
        if self.only_permanent and fields["NewLeaseDuration"] != "0":
            return self._error(725)
        if port in self.taken:
            return self._error(718)
        assert fields["NewInternalClient"] == LOCAL[0]
        self.mappings[port] = int(fields["NewInternalPort"])
        return self._ok("")

    def _map(self, data: bytes) -> list[bytes]:
        if data[0] == 2 and self.pcp:
            lifetime_s = int.from_bytes(data[4:8], "big")
            internal, wished = struct.unpack_from(">HH", data, 40)
            external = self._grant(internal, wished, lifetime_s)
            granted_s = min(lifetime_s, self.lifetime_s)
            host = bytes(10) + b"\xff\xff" + bytes(int(part) for part in self.host.split("."))
            head = struct.pack(">BBBBII12x", 2, 0x81, 0, 0, granted_s, 1000)
            return [head + data[24:40] + struct.pack(">HH", internal, external) + host]
        if data[0] == 2 and self.nat_pmp:
            return [struct.pack(">BBHI", 0, 0x81, 1, 1000)]
        if data[0] == 0 and self.nat_pmp:
            if data[1] == 0:
                return [struct.pack(">BBHI", 0, 0x80, 0, 1000) + bytes(int(part) for part in self.host.split("."))]
            internal, wished, lifetime_s = struct.unpack_from(">HHI", data, 4)
            external = self._grant(internal, wished, lifetime_s)
            return [struct.pack(">BBHIHHI", 0, 0x81, 0, 1000, internal, external, min(lifetime_s, self.lifetime_s))]
        return []

    def _grant(self, internal: int, wished: int, lifetime_s: int) -> int:
        if lifetime_s == 0:
            self.mappings = {outside: inside for outside, inside in self.mappings.items() if inside != internal}
            return 0
        external = wished or internal
        while external in self.taken:
            external += 1
        self.mappings[external] = internal
        return external

    def _ok(self, body: str) -> bytes:
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def _error(self, code: int) -> bytes:
        body = f"<UPnPError><errorCode>{code}</errorCode></UPnPError>"
        return f"HTTP/1.1 500 Internal Server Error\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


class Bench:
    """A mapper, a router, and time."""

    def __init__(self, router: Router, *, cuts: int = 10_000) -> None:
        self.router = router
        self.now_us = SECOND
        self.cuts = cuts
        ids = count(1)
        self.mapper = PortMapper(
            local=LOCAL, gateway=GATEWAY, entropy=counting_entropy(), next_id=lambda: next(ids), now_us=self.now_us
        )
        self.streams: dict[int, Address] = {}
        self.opened: list[Address] = []
        self.sent: list[tuple[int, Address, bytes]] = []
        self._later: list[tuple[int, int, Callable[[], object]]] = []
        self._order = count()

    def run(self, seconds: float) -> None:
        end_us = self.now_us + round(seconds * SECOND)
        self.drain()
        while True:
            deadline = self.mapper.poll_timeout()
            next_us = min(self._later[0][0] if self._later else end_us + 1, deadline.at_us if deadline else end_us + 1)
            if next_us > end_us:
                break
            self.now_us = max(self.now_us, next_us)
            while self._later and self._later[0][0] <= self.now_us:
                heapq.heappop(self._later)[2]()
                self.drain()
            if deadline and deadline.at_us <= self.now_us:
                self.mapper.handle_timeout(self.now_us)
                self.drain()
                after = self.mapper.poll_timeout()
                assert after is None or after.at_us > self.now_us, f"it would spin: {after}"
        self.now_us = end_us

    def receive(self, source: Address, data: bytes) -> bool:
        is_ours = self.mapper.handle_datagram(source, data, self.now_us)
        self.drain()
        return is_ours

    def drain(self) -> None:
        while (request := self.mapper.poll_request()) is not None:
            if isinstance(request, OpenStream):
                self.opened.append(request.remote)
                self.streams[request.stream_id] = request.remote
                self._soon(partial(self._open, request.stream_id))
            elif isinstance(request, CloseStream):
                self.streams.pop(request.stream_id)
        while (transmit := self.mapper.poll_transmit(self.now_us)) is not None:
            self.sent.append((self.now_us, *transmit))
            for source, reply in self.router.handle(*transmit):
                self._soon(partial(self.receive, source, reply))
        while (written := self.mapper.poll_stream_transmit()) is not None:
            self._soon(partial(self._answer, written[0], written[2]))

    def release(self) -> None:
        self.mapper.release(self.now_us)
        self.run(PORT_MAPPING_RELEASE_US / SECOND)
        assert self.mapper.is_gone
        assert self.mapper.poll_timeout() is None
        assert self.streams == {}

    def _soon(self, action: Callable[[], object]) -> None:
        heapq.heappush(self._later, (self.now_us + 5_000, next(self._order), action))

    def _open(self, stream_id: int) -> None:
        if stream_id in self.streams:
            self.mapper.handle_stream_opened(stream_id, self.now_us)

    def _answer(self, stream_id: int, data: bytes) -> None:
        answer = self.router.http(data)
        for at in range(0, len(answer), self.cuts):
            if stream_id in self.streams:
                self.mapper.handle_stream_data(stream_id, answer[at : at + self.cuts], self.now_us)
                self.drain()


KINDS = ("pcp", "nat_pmp", "upnp")
SECONDS_TO_MAP = {"pcp": 0.1, "nat_pmp": 0.2, "upnp": 5.0}


def mapped(kind: str) -> tuple[Bench, Router]:
    router = Router(**{kind: True})
    bench = Bench(router)
    bench.run(SECONDS_TO_MAP[kind])
    assert bench.mapper.mapped is not None
    return bench, router


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_is_mapped_by_what_the_router_speaks_and_given_back(kind: str) -> None:
    bench, router = mapped(kind)
    assert bench.mapper.mapped == (OUTSIDE, 40_000)
    assert router.mappings == {40_000: 40_000}
    assert not bench.mapper.is_asking
    bench.release()
    assert router.mappings == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mapping_is_renewed_for_as_long_as_it_is_needed(kind: str) -> None:
    bench, router = mapped(kind)
    before = len(router.asked) + len(router.calls)
    bench.run(2 * PORT_MAPPING_LIFETIME_S)
    assert bench.mapper.mapped == (OUTSIDE, 40_000)
    assert 4 <= len(router.asked) + len(router.calls) - before <= 10


@pytest.mark.parametrize("kind", KINDS)
def test_another_port_will_do_where_ours_is_taken(kind: str) -> None:
    router = Router(**{kind: True})
    router.taken = {40_000}
    bench = Bench(router)
    bench.run(SECONDS_TO_MAP[kind])
    assert bench.mapper.mapped is not None
    assert bench.mapper.mapped[1] != 40_000
    assert router.mappings == {bench.mapper.mapped[1]: 40_000}


def test_all_protocols_are_tried_one_after_the_other_and_then_no_more() -> None:
    bench = Bench(Router())
    bench.run(60)
    assert [len(data) for _, to, data in bench.sent if to == ROUTER] == [60] * PORT_MAPPING_ATTEMPTS_MAX + [12, 2] * 3
    searches = [at_us for at_us, to, _ in bench.sent if to == SEARCH_ADDRESS]
    assert len(searches) == 4
    assert bench.mapper.is_useless
    assert bench.mapper.poll_timeout() is None
    bench.release()


def test_a_router_that_refuses_by_pcp_may_agree_by_another_protocol() -> None:
    router = Router(nat_pmp=True)
    bench = Bench(router)
    bench.drain()
    bench.receive(ROUTER, struct.pack(">BBBBII12x", 2, 0x81, 0, 2, 30, 1000))
    bench.run(0.1)
    assert bench.mapper.mapped == (OUTSIDE, 40_000)


def test_a_short_lifetime_makes_no_flood() -> None:
    router = Router(pcp=True)
    router.lifetime_s = 1
    bench = Bench(router)
    bench.run(100)
    assert len(router.asked) <= 1 + 100 * SECOND // PORT_MAPPING_RENEW_US_MIN


def test_a_mapping_the_router_does_not_renew_ends() -> None:
    bench, router = mapped("pcp")
    router.is_silent = True
    bench.run(PORT_MAPPING_LIFETIME_S - 1)
    assert bench.mapper.mapped is not None
    bench.run(2)
    assert bench.mapper.mapped is None


def test_a_router_that_was_away_gives_the_mapping_again() -> None:
    bench, router = mapped("pcp")
    router.is_silent = True
    bench.run(PORT_MAPPING_LIFETIME_S + 100)
    router.is_silent = False
    bench.run(20)
    assert bench.mapper.mapped == (OUTSIDE, 40_000)


@pytest.mark.parametrize("host", ["192.168.7.1", "10.0.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_outside_address_that_is_none_is_not_announced(kind: str, host: str) -> None:
    router = Router(**{kind: True})
    router.host = host
    bench = Bench(router)
    bench.run(SECONDS_TO_MAP[kind])
    assert bench.mapper.mapped is None
    bench.release()


def test_only_the_router_is_believed_and_only_when_asked() -> None:
    router = Router(pcp=True)
    router.is_silent = True
    bench = Bench(router)
    bench.drain()
    router.is_silent = False
    ((_, honest),) = router.handle(ROUTER, router.asked[0])
    for source in (("192.168.1.2", ROUTER_PORT), (GATEWAY, 5350)):
        assert not bench.receive(source, honest)
    other_nonce = honest[:24] + bytes(12) + honest[36:]
    other_port = honest[:40] + b"\x00\x01" + honest[42:]
    for forged in (other_nonce, other_port, b"", honest[:40], b"\x07" + honest[1:], honest[:1] + b"\x01" + honest[2:]):
        bench.receive(ROUTER, forged)
        assert bench.mapper.mapped is None
    bench.receive(ROUTER, honest)
    assert bench.mapper.mapped == (OUTSIDE, 40_000)
    moved = honest[:-4] + bytes((203, 0, 113, 66))
    bench.receive(ROUTER, moved)
    assert bench.mapper.mapped == (OUTSIDE, 40_000)


# UPnP


def test_an_answer_in_small_pieces_is_understood() -> None:
    bench = Bench(Router(upnp=True), cuts=7)
    bench.run(5)
    assert bench.mapper.mapped == (OUTSIDE, 40_000)


def test_a_router_with_permanent_leases_only_is_asked_for_one() -> None:
    router = Router(upnp=True)
    router.only_permanent = True
    bench = Bench(router)
    bench.run(5)
    assert bench.mapper.mapped == (OUTSIDE, 40_000)
    bench.release()
    assert router.mappings == {}


def test_a_few_ports_are_tried_and_no_more() -> None:
    router = Router(upnp=True)
    router.taken = set(range(65_536))
    bench = Bench(router)
    bench.run(10)
    assert router.calls.count("AddPortMapping") == UPNP_PORTS_MAX
    assert bench.mapper.is_useless


@pytest.mark.parametrize(
    "location",
    ["http://192.168.1.9:80/x", "http://203.0.113.9/x", "https://192.168.1.1/x", "http://evil.example/x", "file:///etc"],
)
def test_nobody_but_the_router_is_connected_to(location: str) -> None:
    router = Router(upnp=True)
    router.location = location
    bench = Bench(router)
    bench.run(20)
    assert bench.opened == []
    assert bench.mapper.is_useless


def test_a_search_is_answered_by_the_router_in_time_or_not_at_all() -> None:
    router = Router(upnp=True)
    honest = router.handle(SEARCH_ADDRESS, b"")[0][1]
    router.is_silent = True
    bench = Bench(router)
    bench.receive((GATEWAY, 1900), honest)
    bench.run(4)
    bench.receive(("192.168.1.9", 1900), honest)
    assert bench.opened == []
    bench.run(UPNP_SEARCH_US / SECOND)
    bench.receive((GATEWAY, 1900), honest)
    assert bench.opened == []
    assert bench.mapper.is_useless


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + bytes(UPNP_ANSWER_BYTES_MAX),
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_a_router_that_answers_nonsense_is_left_alone(answer: bytes) -> None:
    router = Router(upnp=True)
    bench = Bench(router)
    router.http = lambda data: answer  # type: ignore[method-assign]
    bench.run(4 + UPNP_ANSWER_US / SECOND)
    assert bench.streams == {}
    assert bench.mapper.is_useless
    assert bench.mapper.poll_timeout() is None
