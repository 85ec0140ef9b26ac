"""Pings to points of presence, in virtual time: rounds, samples, what is asked when, and what is not."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from peergram.address import Address
from peergram.config import (
    RELAY_PING_AGE_US,
    RELAY_PING_IDLE_US,
    RELAY_PING_LOOK_US,
    RELAY_PING_MAP_US,
    RELAY_PING_NEAREST,
    RELAY_PING_SAMPLES,
)
from peergram.io_requests import CloseSocket, OpenSocket, ResolveName
from peergram.routes.relay_pings import RelayPings
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun
from tests.routes.servers import answer, counting_entropy

SECOND = 1_000_000
MS = 1_000


class Lab:
    """One `RelayPings`, and servers by address that answer after a time; None: never."""

    def __init__(self, pings_ms: dict[str, int | None]) -> None:
        self.now_us = SECOND
        ids = count(1)
        self.pings = RelayPings(entropy=counting_entropy(), next_id=lambda: next(ids))
        self.hosts = {code: f"198.51.100.{index}" for index, code in enumerate(pings_ms, 1)}
        self.delay_ms = {self.hosts[code]: ms for code, ms in pings_ms.items()}
        self.extra_us: Callable[[int], int] = lambda nth: 0
        self.asked: list[tuple[int, str]] = []
        self.sockets: set[int] = set()
        self.names: list[str] = []
        self._later: list[tuple[int, int, Callable[[], object]]] = []
        self._order = count()
        self.pings.set_places({code: ((host, 3_478),) for code, host in self.hosts.items()}, self.now_us)

    def drain(self) -> None:
        while (request := self.pings.poll_request()) is not None:
            if isinstance(request, OpenSocket):
                self.sockets.add(request.socket_id)
                if request.family == 4:
                    self.pings.handle_socket_opened(request.socket_id, self.now_us)
                else:
                    self.sockets.discard(request.socket_id)
                    self.pings.handle_socket_failed(request.socket_id, self.now_us)
            elif isinstance(request, CloseSocket):
                self.sockets.discard(request.socket_id)
            else:
                assert isinstance(request, ResolveName)
                self.names.append(request.name)
        while (sent := self.pings.poll_transmit(self.now_us)) is not None:
            self._carry(*sent)

    def _carry(self, socket_id: int, remote: Address, data: bytes) -> None:
        assert socket_id in self.sockets
        self.asked.append((self.now_us, remote[0]))
        delay_ms = self.delay_ms[remote[0]]
        if delay_ms is None:
            return
        reply = answer(decode_stun(data), xor_mapped_address=("203.0.113.9", 40_000))
        at_us = self.now_us + delay_ms * MS + self.extra_us(len(self.asked))
        heapq.heappush(self._later, (at_us, next(self._order), lambda: self.deliver(socket_id, remote, encode_stun(reply))))

    def deliver(self, socket_id: int, source: Address, data: bytes) -> None:
        message = decode_stun(data)
        assert message.message_class == Class.SUCCESS
        self.pings.handle_stun(socket_id, source, message, self.now_us)

    def run(self, us: int) -> None:
        end_us = self.now_us + us
        self.drain()
        while True:
            deadline = self.pings.poll_timeout()
            times = [self._later[0][0]] if self._later else []
            times += [deadline.at_us] if deadline is not None else []
            at_us = min(times, default=end_us)
            if at_us >= end_us:
                break
            self.now_us = max(self.now_us, at_us)
            while self._later and self._later[0][0] <= self.now_us:
                heapq.heappop(self._later)[2]()
            if deadline is not None and deadline.at_us <= self.now_us:
                self.pings.handle_timeout(self.now_us)
            self.drain()
            after = self.pings.poll_timeout()
            assert after is None or after.at_us > self.now_us, f"it would spin: {after}"
        self.now_us = end_us

    def codes_asked(self) -> set[str]:
        return {code for code, host in self.hosts.items() if any(host == asked for _, asked in self.asked)}


def test_nothing_is_sent_and_no_socket_is_open_before_somebody_wants_it() -> None:
    lab = Lab({"fra": 25, "ams": 31})
    lab.run(3_600 * SECOND)
    assert lab.asked == []
    assert lab.sockets == set()
    assert lab.pings.age_us(lab.now_us) is None


def test_the_smallest_of_several_samples_counts() -> None:
    lab = Lab({"fra": 25, "ams": 31})
    lab.extra_us = lambda nth: (4 - (nth - 1) // 2) * MS
    lab.pings.want(lab.now_us)
    lab.run(3 * SECOND)
    assert len(lab.asked) == 2 * RELAY_PING_SAMPLES
    assert lab.sockets == set()
    assert str(lab.pings.location()) == "fra=25+2,ams=31+2"
    assert lab.pings.order() == ["fra", "ams"]


def test_there_is_an_order_to_go_by_as_soon_as_all_have_answered_once() -> None:
    lab = Lab({"fra": 25, "ams": 31})
    lab.pings.want(lab.now_us)
    lab.run(20 * MS)
    looked = [lab.pings.has_looked]
    lab.run(20 * MS)
    looked.append(lab.pings.has_looked)
    assert looked == [False, True]
    assert lab.pings.is_measuring


def test_who_does_not_answer_holds_nobody_up_for_long() -> None:
    lab = Lab({"fra": 25, "ams": None})
    lab.pings.want(lab.now_us)
    lab.run(30 * MS + RELAY_PING_LOOK_US)
    assert lab.pings.has_looked
    assert lab.pings.order() == ["fra"]
    lab.run(3 * SECOND)
    assert str(lab.pings.location()) == "fra=25"


def test_later_rounds_ask_the_nearest_only_and_end_with_the_use() -> None:
    lab = Lab({f"p{index:02}": 10 + index for index in range(20)})
    lab.pings.want(lab.now_us)
    lab.run(3 * SECOND)
    assert len(lab.codes_asked()) == 20
    lab.asked.clear()
    lab.run(RELAY_PING_AGE_US)
    assert lab.codes_asked() == {f"p{index:02}" for index in range(RELAY_PING_NEAREST)}
    assert len(lab.pings.order()) == 20
    lab.run(RELAY_PING_IDLE_US)
    lab.asked.clear()
    lab.run(3_600 * SECOND)
    assert lab.asked == []


def test_while_calls_are_under_way_pings_are_kept_up_to_date() -> None:
    lab = Lab({"fra": 25})
    lab.pings.need(True, lab.now_us)
    lab.run(3_600 * SECOND)
    assert 11 * RELAY_PING_SAMPLES <= len(lab.asked) <= 13 * RELAY_PING_SAMPLES
    lab.delay_ms[lab.hosts["fra"]] = 60
    lab.run(RELAY_PING_AGE_US + 3 * SECOND)
    assert lab.pings.us_to("fra") == 60 * MS
    lab.pings.need(False, lab.now_us)
    lab.run(2 * RELAY_PING_IDLE_US)
    lab.asked.clear()
    lab.run(3_600 * SECOND)
    assert lab.asked == []


def test_another_network_means_to_ask_everybody_anew() -> None:
    lab = Lab({"fra": 25, "ams": 31})
    lab.pings.need(True, lab.now_us)
    lab.run(3 * SECOND)
    lab.asked.clear()
    lab.delay_ms[lab.hosts["fra"]] = 90
    lab.pings.handle_network_changed(lab.now_us)
    lab.run(3 * SECOND)
    assert lab.codes_asked() == {"fra", "ams"}
    assert lab.pings.order() == ["ams", "fra"]


def test_a_refresh_measures_only_what_is_too_old() -> None:
    lab = Lab({"fra": 25})
    assert not lab.pings.refresh(60 * SECOND, lab.now_us)
    lab.run(3 * SECOND)
    assert lab.pings.refresh(60 * SECOND, lab.now_us)
    lab.asked.clear()
    lab.run(60 * SECOND)
    assert lab.asked == []
    assert not lab.pings.refresh(60 * SECOND, lab.now_us)
    lab.run(3 * SECOND)
    assert lab.asked


def test_answers_that_were_not_asked_for_count_for_nothing() -> None:
    lab = Lab({"fra": None, "ams": 31})
    lab.pings.want(lab.now_us)
    lab.run(10 * MS)
    socket_id = next(iter(lab.sockets))
    forged = answer(decode_stun(encode_stun(answer(decode_stun(_question()), xor_mapped_address=("1.2.3.4", 5)))))
    lab.deliver(socket_id, (lab.hosts["fra"], 3_478), encode_stun(forged))
    lab.run(3 * SECOND)
    assert lab.pings.order() == ["ams"]


def _question() -> bytes:
    return encode_stun(StunMessage(Method.BINDING, Class.REQUEST, b"somebody els"))


def test_where_nobody_answers_it_is_tried_again_after_a_while() -> None:
    lab = Lab({"fra": None})
    lab.pings.need(True, lab.now_us)
    lab.run(3 * SECOND)
    assert lab.pings.has_failed
    asked = len(lab.asked)
    lab.run(60 * SECOND)
    assert asked < len(lab.asked) <= 4 * asked
    lab.delay_ms[lab.hosts["fra"]] = 20
    lab.run(60 * SECOND)
    assert lab.pings.order() == ["fra"]
    assert not lab.pings.has_failed


def test_a_program_that_looks_in_every_frame_asks_nobody_more_often() -> None:
    lab = Lab({"fra": None})
    for _ in range(60 * 60):
        assert not lab.pings.refresh(10 * SECOND, lab.now_us)
        lab.run(SECOND // 60)
    assert len(lab.asked) <= 3 * RELAY_PING_SAMPLES


def test_where_nobody_answered_another_network_is_tried_at_once() -> None:
    lab = Lab({"fra": None})
    lab.pings.need(True, lab.now_us)
    lab.run(3 * SECOND)
    assert lab.pings.has_failed
    lab.asked.clear()
    lab.pings.handle_network_changed(lab.now_us)
    lab.run(SECOND)
    assert lab.codes_asked() == {"fra"}


def test_a_map_that_changes_all_the_time_has_nobody_asked_more_often() -> None:
    lab = Lab({"fra": None})
    lab.pings.need(True, lab.now_us)
    for index in range(1, 601):
        host = f"198.51.{index // 250}.{index % 250}"
        lab.delay_ms[host] = None
        lab.pings.set_places({"fra": ((host, 3_478),)}, lab.now_us)
        lab.run(100 * MS)
    assert len({at_us // SECOND for at_us, _ in lab.asked}) <= 2 * (60 * SECOND // RELAY_PING_MAP_US)
    assert len(lab.asked) <= (60 * SECOND // RELAY_PING_MAP_US + 1) * RELAY_PING_SAMPLES


def test_names_that_left_the_map_are_forgotten_and_none_is_looked_up_without_need() -> None:
    lab = Lab({})
    lab.pings.want(lab.now_us)
    for index in range(20):
        lab.pings.set_places({"fra": ((f"relay-{index}.example.org", 3_478),)}, lab.now_us)
        lab.run(20 * SECOND)
    assert len(lab.pings._names._names) <= 1
    lab.run(RELAY_PING_IDLE_US)
    lab.names.clear()
    lab.run(24 * 3_600 * SECOND)
    assert lab.names == []
