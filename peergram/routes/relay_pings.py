"""How far the points of presence are: STUN Binding requests to their servers, in rounds, from sockets of their own.

A round asks each place several times and keeps the smallest answer, which queues on the way have disturbed least. The first round
asks all places, later ones the nearest only. Rounds happen when somebody needs the pings and they are old, or the network has
changed; where nobody needs them nothing is sent, and between rounds there is no socket. Servers are asked even where our
address is hidden from peers: they are the relays.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from peergram.address import Address
from peergram.config import (
    PING_LOCATION_MS_MAX,
    RELAY_PING_AGE_US,
    RELAY_PING_IDLE_US,
    RELAY_PING_INTERVAL_US,
    RELAY_PING_LOOK_US,
    RELAY_PING_MAP_US,
    RELAY_PING_NEAREST,
    RELAY_PING_RETRY_US,
    RELAY_PING_SAMPLES,
    RELAY_PING_STAGGER_US,
    RELAY_PING_WAIT_US,
)
from peergram.io_requests import CloseSocket, IoRequest, OpenSocket
from peergram.routes.ping_location import PingLocation, PopPing
from peergram.routes.server_names import ServerNames
from peergram.timing import NEVER, Deadline
from peergram.wire.stun import TRANSACTION_ID_BYTES, Class, Method, StunMessage, encode_stun

Place = tuple[str, int]
"""Host and port of a server, the host a name or a numeric address."""
_ANY: Final[dict[Literal[4, 6], Address]] = {4: ("0.0.0.0", 0), 6: ("::", 0)}
_MS: Final = 1_000


class _Target:
    """One place in the round that is under way."""

    __slots__ = ("next_at_us", "places", "samples_us", "sent", "skips")

    def __init__(self, places: Sequence[Place], first_at_us: int) -> None:
        self.places = places
        self.next_at_us = first_at_us
        self.sent = 0
        self.skips = 0
        """Servers that did not answer: the next one is asked instead."""
        self.samples_us: list[int] = []


class RelayPings:
    """Drain requests and transmits; then `poll_timeout`. `changes` grows whenever there is something new to know."""

    def __init__(self, *, entropy: Callable[[int], bytes], next_id: Callable[[], int]) -> None:
        self.is_measuring = False
        self.measured_at_us: int | None = None
        """When the last round ended that had an answer; None: never, or in another network."""
        self.has_failed = False
        """Whether the last round had none."""
        self.changes = 0
        self._entropy = entropy
        self._next_id = next_id
        self._names = ServerNames()
        self._places: dict[str, tuple[Place, ...]] = {}
        self._us: dict[str, int] = {}
        self._spread_us: dict[str, int] = {}
        self._is_partial = False
        """Whether the next round may leave out those that are far."""
        self._targets: dict[str, _Target] = {}
        self._asked: dict[bytes, tuple[str, Address, int]] = {}
        self._sockets: dict[int, Literal[4, 6]] = {}
        self._opening: set[int] = set()
        self._began_at_us = 0
        self._ends_at_us = NEVER
        self._free_at_us = 0
        """When another round may begin after a change of the map."""
        self._look_until_us = NEVER
        self._wanted_until_us = 0
        self._is_needed = False
        self._requests: deque[IoRequest] = deque()

    # What is known.

    @property
    def has_looked(self) -> bool:
        """Whether there is an order of places to go by: all have answered once in this round, or have had time to, or an earlier
        round is over."""
        return self.measured_at_us is not None or self.has_failed or (self.is_measuring and self._look_until_us == 0)

    def us_to(self, code: str) -> int | None:
        """The ping to that place, the smallest measured; None if it is not known."""
        return self._us.get(code)

    def order(self) -> list[str]:
        """Places with known pings, the nearest first."""
        return sorted(self._us, key=lambda code: (self._us[code], code))

    def location(self) -> PingLocation:
        """All of it, to be told to others."""
        return PingLocation.of(
            PopPing(code, min(round(us / _MS), PING_LOCATION_MS_MAX), min(round(self._spread_us.get(code, 0) / _MS), 9_999))
            for code, us in self._us.items()
        )

    def age_us(self, now_us: int) -> int | None:
        """Since the last round; None without one."""
        return None if self.measured_at_us is None else max(0, now_us - self.measured_at_us)

    def addresses(self, place: Place) -> list[Address]:
        """Numeric addresses of a server, as far as they are known."""
        return self._names.known(*place)

    # Commands.

    def set_places(self, places: Mapping[str, tuple[Place, ...]], now_us: int) -> None:
        """Another map. What is known of places that stay is kept; if there are new ones, all are asked next time."""
        if dict(places) == self._places:
            return
        has_new = any(self._places.get(code) != servers for code, servers in places.items())
        for code in [code for code in self._us if places.get(code) != self._places.get(code)]:
            del self._us[code]
            self._spread_us.pop(code, None)
        self._places = dict(places)
        self._names.keep({host for servers in places.values() for host, _ in servers})
        self.changes += 1
        if self.is_measuring:
            # However often the map changes, no more is asked.
            self._free_at_us = self._began_at_us + RELAY_PING_MAP_US
            self._end(now_us, is_whole=False)
        if has_new:
            self._forget_age()
        self._start_if_due(now_us)

    def want(self, now_us: int) -> None:
        """Somebody has use for pings, now and for a while."""
        self._wanted_until_us = now_us + RELAY_PING_IDLE_US
        self._start_if_due(now_us)

    def need(self, is_needed: bool, now_us: int) -> None:
        """Whether calls are under way, which need them all the time."""
        if self._is_needed and not is_needed:
            self._wanted_until_us = max(self._wanted_until_us, now_us + RELAY_PING_IDLE_US)
        self._is_needed = is_needed
        self._start_if_due(now_us)

    def refresh(self, max_age_us: int, now_us: int) -> bool:
        """Whether pings are younger than that; if not, they are measured anew."""
        self._wanted_until_us = max(self._wanted_until_us, now_us + RELAY_PING_IDLE_US)
        age_us = self.age_us(now_us)
        if age_us is not None and age_us <= max_age_us and not self.is_measuring:
            return True
        if not self.is_measuring and now_us >= self._retry_at_us:
            self._start(now_us)
        return False

    def handle_network_changed(self, now_us: int) -> None:
        """Nothing that was measured need hold: all places are asked again once somebody needs it."""
        self._names.handle_network_changed(now_us)
        self._forget_age()
        if self.is_measuring:
            self._end(now_us, is_whole=False)
        if self.has_failed:
            self._ends_at_us = now_us - RELAY_PING_RETRY_US
        self._start_if_due(now_us)

    def close(self, now_us: int) -> None:
        """Give the sockets back."""
        self._wanted_until_us, self._is_needed = 0, False
        if self.is_measuring:
            self._end(now_us, is_whole=False)
        self._names.forget()

    # The verbs.

    def handle_socket_opened(self, socket_id: int, now_us: int) -> bool:
        """The driver's answer; whether the socket is one of these."""
        if socket_id not in self._sockets:
            return False
        self._opening.discard(socket_id)
        return True

    def handle_socket_failed(self, socket_id: int, now_us: int) -> bool:
        """The driver's other answer: this machine lacks that family."""
        self._opening.discard(socket_id)
        return self._sockets.pop(socket_id, None) is not None

    def handle_name_resolved(self, name: str, hosts: list[str], now_us: int) -> None:
        """The driver's answer to ResolveName."""
        self._names.handle_name_resolved(name, hosts, now_us)

    def handle_stun(self, socket_id: int, source: Address, message: StunMessage, now_us: int) -> bool:
        """A STUN message on one of these sockets; whether it is."""
        if socket_id not in self._sockets:
            return False
        asked = self._asked.get(message.transaction_id)
        is_answer = message.method == Method.BINDING and message.message_class == Class.SUCCESS
        if asked is None or asked[1] != source or not is_answer or message.unknown_required:
            return True
        del self._asked[message.transaction_id]
        code, _, sent_at_us = asked
        target = self._targets.get(code)
        if target is not None:
            target.samples_us.append(max(1, now_us - sent_at_us))
            self._note(code, target)
            self._look(now_us)
            if self._is_done():
                self._end(now_us, is_whole=True)
        return True

    def handle_timeout(self, now_us: int) -> None:
        """Begin and end rounds."""
        if self.is_measuring:
            self._names.handle_timeout(now_us)
            self._look(now_us)
            if now_us >= self._ends_at_us:
                self._end(now_us, is_whole=True)
        self._start_if_due(now_us)

    def poll_request(self) -> IoRequest | None:
        """What the driver is to do next."""
        return self._requests.popleft() if self._requests else self._names.poll_request()

    def poll_transmit(self, now_us: int) -> tuple[int, Address, bytes] | None:
        """The next question."""
        if not self.is_measuring or self._opening:
            return None
        for code, target in self._targets.items():
            while target.sent < RELAY_PING_SAMPLES and target.next_at_us <= now_us:
                if (question := self._ask(code, target, now_us)) is not None:
                    return question
        return None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        deadlines: list[Deadline | None] = []
        if self.is_measuring:
            deadlines.append(self._names.poll_timeout())
            deadlines.append(Deadline(min(self._ends_at_us, self._look_until_us or NEVER), "ping round"))
            if not self._opening:
                due_us = min((t.next_at_us for t in self._targets.values() if t.sent < RELAY_PING_SAMPLES), default=NEVER)
                deadlines.append(Deadline(due_us, "ping of a relay"))
        elif (due_us := self._due_at_us()) < NEVER:
            deadlines.append(Deadline(due_us, "pings are old"))
        return min((each for each in deadlines if each is not None and each.at_us < NEVER), default=None)

    # Inside.

    def _due_at_us(self) -> int:
        if not self._places:
            return NEVER
        at_us = self._retry_at_us if self.measured_at_us is None else self.measured_at_us + RELAY_PING_AGE_US
        return at_us if self._is_needed or at_us < self._wanted_until_us else NEVER

    @property
    def _retry_at_us(self) -> int:
        return max(self._ends_at_us + RELAY_PING_RETRY_US if self.has_failed else 0, self._free_at_us)

    def _start_if_due(self, now_us: int) -> None:
        if not self.is_measuring and now_us >= self._due_at_us():
            self._start(now_us)

    def _start(self, now_us: int) -> None:
        if not self._places:
            return
        codes = [code for code in self._places if code in self._us] if self._is_partial else list(self._places)
        if self._is_partial:
            codes = sorted(codes, key=lambda code: self._us[code])[:RELAY_PING_NEAREST]
        self._began_at_us = begin_us = now_us
        self._targets = {
            code: _Target(self._places[code], begin_us + index * RELAY_PING_STAGGER_US) for index, code in enumerate(codes)
        }
        self._asked.clear()
        self.is_measuring = True
        self.changes += 1
        last_at_us = begin_us + len(codes) * RELAY_PING_STAGGER_US + RELAY_PING_SAMPLES * RELAY_PING_INTERVAL_US
        self._ends_at_us = last_at_us + RELAY_PING_WAIT_US
        self._look_until_us = 0 if self.measured_at_us is not None else self._ends_at_us
        families: list[Literal[4, 6]] = [4, 6]
        for family in families:
            socket_id = self._next_id()
            self._sockets[socket_id] = family
            self._opening.add(socket_id)
            self._requests.append(OpenSocket(socket_id, family, _ANY[family]))
        # Names wait between rounds, too.
        self._names.handle_timeout(now_us)
        for target in self._targets.values():
            for place in target.places:
                self._names.addresses(*place, now_us)

    def _ask(self, code: str, target: _Target, now_us: int) -> tuple[int, Address, bytes] | None:
        known = [address for place in target.places for address in self._names.addresses(*place, now_us)]
        by_family = {family: socket_id for socket_id, family in self._sockets.items()}
        reachable = [address for address in known if (6 if ":" in address[0] else 4) in by_family]
        target.next_at_us = now_us + RELAY_PING_INTERVAL_US
        if not reachable:
            target.sent += not self._names.is_waiting
            return None
        target.sent += 1
        if target.sent > 2 and not target.samples_us:
            target.skips += 1
        address = reachable[target.skips % len(reachable)]
        transaction_id = self._entropy(TRANSACTION_ID_BYTES)
        self._asked[transaction_id] = (code, address, now_us)
        question = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, transaction_id))
        return by_family[6 if ":" in address[0] else 4], address, question

    def _note(self, code: str, target: _Target) -> None:
        """In the first round every answer counts at once; later ones are judged at their end."""
        if self.measured_at_us is None:
            self._us[code] = min(target.samples_us)
            self._spread_us[code] = 0
            self.changes += 1

    def _look(self, now_us: int) -> None:
        """Notice when there is an order to go by."""
        if not self._look_until_us:
            return
        answered = sum(bool(target.samples_us) for target in self._targets.values())
        if answered:
            self._look_until_us = min(self._look_until_us, now_us + RELAY_PING_LOOK_US)
        if answered == len(self._targets) or now_us >= self._look_until_us:
            self._look_until_us = 0
            self.changes += 1

    def _is_done(self) -> bool:
        return all(len(target.samples_us) >= RELAY_PING_SAMPLES for target in self._targets.values())

    def _end(self, now_us: int, *, is_whole: bool) -> None:
        """Close the round; one that was broken off tells nothing."""
        if is_whole:
            found = {code: target.samples_us for code, target in self._targets.items() if target.samples_us}
            for code in self._targets:
                self._us.pop(code, None)
                self._spread_us.pop(code, None)
            for code, samples_us in found.items():
                self._us[code] = min(samples_us)
                self._spread_us[code] = round(statistics.median(samples_us)) - min(samples_us)
            self.has_failed = not found
            if found:
                self.measured_at_us = now_us
            else:
                self._forget_age()
            self._is_partial = bool(found)
        self._ends_at_us = now_us
        self._targets.clear()
        self._asked.clear()
        self.is_measuring = False
        self.changes += 1
        for socket_id in self._sockets:
            self._requests.append(CloseSocket(socket_id))
        self._sockets.clear()
        self._opening.clear()

    def _forget_age(self) -> None:
        self.measured_at_us = None
        self._is_partial = False
