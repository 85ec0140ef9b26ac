"""A host that sees the packets of a session sends them once more, from its own address and from a victim's, to both ends (I4).

From the first check on each copy leaves at once and overtakes the original: it is authentic and new, and comes from a place
nobody knows. At the end all of them go out again, now old. Short by default; PEERGRAM_SOAK=1 takes half a minute. Needs root
and the `netlab` module (see `tests.lab`).
"""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict
from contextlib import ExitStack

from tests.interop.party import connected, now_us
from tests.lab import SOAK

from .capture import UDP, Capture, Packet, capture
from .nat_lab import OURS, NatLab, world
from .test_p2p_faults import drained, outcome

TALK_S = 30.0 if SOAK else 1.5
OLD_S = 2.0 if SOAK else 0.5
"""The end of the talk, while old copies come."""
UNDER_WAY_MS = 30
"""How long packets take out of each home; copies do not."""
PAUSE_S = 0.001
OLD_ROUNDS = 2
BURST = 20
AMPLIFICATION_MAX = 3
"""Bytes to an unproven address for each byte from there."""
SILENCE_US_MAX = 500_000
"""In a talk of 50 messages a second."""

_IP_TRANSPARENT = 19


class Copier:
    """The host `evil`: it sees what leaves the hosts of both peers, and copies it until it is stopped."""

    def __init__(self, lab: NatLab, seen: dict[str, Capture]) -> None:
        self.copied: list[Packet] = []
        self._own = lab.lab.socket("evil")
        self._forged = lab.lab.call("evil", _socket_of, lab.lab.addr("victim"))
        outside = {"alice": lab.lab.addr("home2"), "bob": lab.lab.addr("home1")}
        self._seen = [(seen[host].packets, lab.lab.addr(host), other) for host, other in outside.items()]
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._copy_new, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_stopped.set()
        self._thread.join()

    def copy_old(self) -> None:
        """All of it once more, not faster than a socket takes it."""
        for number, packet in enumerate(self.copied):
            self._send(packet)
            if number % BURST == 0:
                time.sleep(PAUSE_S)

    def close(self) -> None:
        self.stop()
        self._own.close()
        self._forged.close()

    def _copy_new(self) -> None:
        read = [0, 0]
        while not self._is_stopped.wait(PAUSE_S):
            for index, (packets, own, other) in enumerate(self._seen):
                count = len(packets)
                for packet in packets[read[index] : count]:
                    if packet.protocol == UDP and (packet.source[0], packet.target[0]) == (own, other):
                        self._send(packet)
                        self.copied.append(packet)
                read[index] = count

    def _send(self, packet: Packet) -> None:
        for each in (self._own, self._forged):
            each.sendto(packet.payload, packet.target)


def _socket_of(host: str) -> socket.socket:
    """A socket with somebody else's address."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    made.bind((host, 0))
    return made


def data(packets: list[Packet]) -> list[Packet]:
    return [packet for packet in packets if not packet.is_stun]


def overtaken(packets: list[Packet], true: str, false: str) -> tuple[int, int]:
    """How many packets of data came from both hosts, and how many of them from the false one first."""
    sources: dict[bytes, list[str]] = defaultdict(list)
    for packet in data(packets):
        sources[packet.payload].append(packet.source[0])
    both = [each for each in sources.values() if {true, false} <= set(each)]
    return len(both), sum(each[0] == false for each in both)


def test_copies_of_a_session_s_packets_bring_no_data_to_whoever_sends_them_and_change_nothing() -> None:
    words = "alice@home1:full-cone bob@home2:full-cone evil@inet victim@inet"
    with world(words, relays=0) as lab, ExitStack() as stack:
        seen = {host: stack.enter_context(capture(lab.lab, host)) for host in ("alice", "bob", "evil", "victim")}
        for router in ("home1", "home2"):
            lab.lab.impair(router, "up", delay=UNDER_WAY_MS)
        copier = Copier(lab, seen)
        stack.callback(copier.close)
        alice, bob = lab.pair(OURS)
        alice.send(bob.identity, b"hello")
        assert bob.take()[1] == b"hello"
        directions = ((alice, bob), (bob, alice))
        began_us = now_us()
        for speaker, listener in directions:
            speaker.talk(listener.identity, TALK_S)
        time.sleep(TALK_S - OLD_S)
        copier.stop()
        for _ in range(OLD_ROUNDS):
            copier.copy_old()
        alice.until(lambda: alice.said()["is_done"] and bob.said()["is_done"], "all is sent", TALK_S)
        results = [outcome(sent, heard, began_us, now_us()) for sent, heard in drained(directions)]

        copied = sum(len(packet.payload) for packet in copier.copied) * (1 + OLD_ROUNDS)
        print(f"\n{len(copier.copied)} packets copied, {len(data(copier.copied))} of data; " + "; ".join(map(str, results)))
        for host in ("evil", "victim"):
            got = seen[host].udp(target=lab.lab.addr(host))
            size = sum(len(packet.payload) for packet in got)
            print(f"{host}: got {len(got)} packets, {size} bytes for {copied}, of data {len(data(got))}")
            assert data(got) == []
            assert 0 < size <= AMPLIFICATION_MAX * copied, "copied checks are answered, and these eyes see it"
        for host, router in (("alice", "home2"), ("bob", "home1")):
            known, before = overtaken(seen[host].packets, lab.lab.addr(router), lab.lab.addr("evil"))
            forged = data(seen[host].udp(source=lab.lab.addr("victim")))
            print(f"{host}: {before} of {known} packets of data came from evil first, {len(forged)} as if from the victim")
            assert before > known / 2 > 0
            assert forged
        for peer, other in directions:
            routes = [event["route"] for event in peer.events("standing")]
            assert routes[-1] == "direct"
            assert "" not in routes[routes.index("direct") :], "the session was up all the time"
            assert connected(peer, other)
        assert all((result.missing, result.doubled, result.is_ordered) == (0, 0, True) for result in results)
        assert max(result.silence_us for result in results) <= SILENCE_US_MAX
