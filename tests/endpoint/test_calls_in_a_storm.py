"""Endpoints known by identity while everything happens at once: signals and packets are lost, doubled, late, brought again,
altered and brought in others' names; both sides call at once, close, start over and move; drivers are slow to drain.

In the end there is one session for each pair, every message that arrived did so once and in order, and nothing is left behind.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from random import Random

import pytest

from peergram.address import Address
from peergram.config import Config
from peergram.crypto.keys import SigningKey
from peergram.crypto.policy import Trust
from peergram.events import SendFlags, SessionRequested
from peergram.identity import Identity
from peergram.wire.certificates import SignedCertificate
from tests.endpoint.by_identity import Host, World

SEEDS = range(1_000 if os.environ.get("PEERGRAM_SOAK") == "1" else 8)
RESTARTS = int(SendFlags.RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION)
NAMES = ("alice", "bob", "carol")
PAUSES_US = (0, 1_000, 10_000, 50_000, 200_000, 1_000_000, 5_000_000, 15_000_000)


class SlowHost(Host):
    """Does not always drain at once."""

    def drain(self) -> None:
        storm = self.world
        if isinstance(storm, Storm) and storm.is_lazy and not storm.is_calm and storm.dice.random() < 0.4:
            storm.at(storm.dice.randrange(2_000), super().drain)
        else:
            super().drain()


class Storm(World):
    """A network and a service that do what they like, until it is calm."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.is_calm = False
        self.is_lazy = self.dice.random() < 0.3
        self.runs: dict[str, int] = defaultdict(int)
        """How often each peer started over."""
        self.got: dict[tuple[str, int, str], list[tuple[int, int]]] = defaultdict(list)
        """Run and number of each message, by receiver, his run and the sender."""
        self._cut: set[str] = set()
        self._number = 0
        self._keys: dict[str, SigningKey] = {}
        self._keeps_keys = self.dice.random() < 0.5
        self._loss, self._signal_loss = self.dice.choice((0.0, 0.05, 0.2)), self.dice.choice((0.0, 0.1, 0.3))
        self._doubled, self._again = self.dice.choice((0.0, 0.1, 0.3)), self.dice.choice((0.0, 0.05))
        self._late_us, self._signal_late_us = self.dice.choice((1, 20_000, 100_000)), self.dice.choice((1, 50_000, 3_000_000))
        self._packets: list[tuple[Address, Address, bytes]] = []
        self._signals: list[tuple[Identity, Identity, bytes]] = []
        self._next_port = 40_000
        super().__init__(*NAMES, seed=seed)

    def add(
        self,
        name: str,
        address: str,
        config: Config | None = None,
        key: SigningKey | None = None,
        *,
        remembered: Sequence[tuple[Identity, int]] = (),
        trust: Trust | None = None,
        certificate: SignedCertificate | None = None,
    ) -> Host:
        known = self._keys.get(name) if self._keeps_keys else None
        self._keys[name] = key or known or SigningKey.generate(self.random.randbytes)
        made = super().add(name, address, config, self._keys[name], remembered=remembered, trust=trust, certificate=certificate)
        self._next_port += 100
        host = self.hosts[name] = SlowHost(self, name, address, made.endpoint, made.identity, port=self._next_port)
        return host

    def carry(self, source: Address, destination: Address, packet: bytes) -> None:
        if self.is_calm:
            super().carry(source, destination, packet)
            return
        if self.dice.random() < self._loss or {source[0], destination[0]} & self._cut:
            return
        self._packets.append((source, destination, packet))
        for _ in range(1 + (self.dice.random() < self._doubled)):
            late_us = self.latency_us + self.dice.randrange(self._late_us)
            self.at(late_us, lambda: self._arrive(source, destination, packet))
        if self.dice.random() < self._again:
            old = self.dice.choice(self._packets[-2_000:])
            self.at(self.dice.randrange(2_000_000), lambda: self._arrive(*old))

    def carry_signal(self, sender: Host, to: Identity, blob: bytes) -> None:
        who = sender.identity
        if self.is_calm:
            super().carry_signal(sender, to, blob)
            return
        if self.dice.random() < self._signal_loss:
            return
        self._signals.append((who, to, blob))
        for _ in range(1 + (self.dice.random() < self._doubled)):
            late_us = self.signal_us + self.dice.randrange(self._signal_late_us)
            self.at(late_us, lambda: self.deliver_signal(who, to, blob))
        if self.dice.random() < 0.2:
            self._forge()

    def _forge(self) -> None:
        """An old signal again, altered, in another's name, or to another."""
        sender, to, blob = self.dice.choice(self._signals)
        kind = self.dice.randrange(3)
        if kind == 0:
            blob = blob[: self.dice.randrange(len(blob))]
        elif kind == 1:
            altered = bytearray(blob)
            altered[self.dice.randrange(len(blob))] ^= 1 << self.dice.randrange(8)
            blob = bytes(altered)
        others = [host.identity for host in self.hosts.values()]
        sender = self.dice.choice(others) if self.dice.random() < 0.3 else sender
        to = self.dice.choice(others) if self.dice.random() < 0.3 else to
        self.at(self.dice.randrange(5_000_000), lambda: self.deliver_signal(sender, to, blob))

    # What the programs do.

    def say(self, one: Host, other: Host) -> tuple[int, int]:
        """Send a message that names the sender's run and has a number; those two."""
        self._number += 1
        said = (self.runs[one.name], self._number)
        one.endpoint.send_message(other.identity, f"{one.name} {said[0]} {said[1]}".encode(), RESTARTS, 0, self.now_us)
        return said

    def act(self) -> None:
        """One of the things that programs and their machines do."""
        dice = self.dice
        one, other = (self.hosts[name] for name in dice.sample(NAMES, 2))
        chance = dice.random()
        if chance < 0.45:
            self.say(one, other)
        elif chance < 0.6:
            self.say(one, other)
            self.say(other, one)
            other.drain()
        elif chance < 0.68:
            one.endpoint.close_session(other.identity, self.now_us)
        elif chance < 0.72:
            if dice.random() < 0.5:
                one.endpoint.close(self.now_us)
                one.drain()
            self.runs[one.name] += 1
            one = self.add(one.name, one.address)
        elif chance < 0.76:
            one.address = f"192.168.1.{dice.randrange(10, 250)}"
            one.tell_address()
        elif chance < 0.8:
            self._cut ^= {one.address}
        elif chance < 0.82:
            one.endpoint.handle_interfaces([], self.now_us)
            self.at(dice.randrange(5_000_000), one.tell_address)
        one.drain()
        for host in self.hosts.values():
            if dice.random() < 0.8:
                self.serve(host)

    def serve(self, host: Host) -> None:
        """What a program does in its loop: read, and let everybody in."""
        for message in host.received():
            name, run, number = message.payload.decode().split()
            assert message.identity == Identity.of(name)
            self.got[host.name, self.runs[host.name], name].append((int(run), int(number)))
        for event in host.events:
            if isinstance(event, SessionRequested):
                host.endpoint.accept_session(event.identity, self.now_us)
        host.events.clear()
        host.drain()

    def pass_time(self, for_us: int) -> None:
        """While the programs run."""
        for _ in range(for_us // 500_000):
            self.run(500_000)
            for host in self.hosts.values():
                self.serve(host)

    def calm_down(self) -> None:
        """Everything works from now on; what was wrong had time to end."""
        self.is_calm = True
        self._cut.clear()
        for host in self.hosts.values():
            host.tell_address()
            host.drain()
        self.pass_time(80_000_000)


@pytest.mark.parametrize("seed", SEEDS)
def test_after_any_storm_each_pair_has_one_session_and_nothing_came_twice(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(storm.dice.randrange(5, 30)):
        storm.act()
        storm.run(storm.dice.choice(PAUSES_US))
    storm.calm_down()
    for index, name in enumerate(NAMES):
        for other_name in NAMES[index + 1 :]:
            one, other = storm.hosts[name], storm.hosts[other_name]
            said, answered = storm.say(one, other), storm.say(other, one)
            one.drain()
            other.drain()
            storm.pass_time(3_000_000)
            assert said in storm.got[other_name, storm.runs[other_name], name]
            assert answered in storm.got[name, storm.runs[name], other_name]
    for numbers in storm.got.values():
        for run in {run for run, _ in numbers}:
            of_run = [number for each, number in numbers if each == run]
            assert of_run == sorted(set(of_run))
    storm.pass_time(30_000_000)
    for host in storm.hosts.values():
        assert len([link for link in host.endpoint._links if link.connection.is_live]) == len(NAMES) - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_after_the_last_session_nothing_is_left(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(storm.dice.randrange(5, 30)):
        storm.act()
        storm.run(storm.dice.choice(PAUSES_US))
    storm.calm_down()
    for host in storm.hosts.values():
        for other in storm.hosts.values():
            host.endpoint.close_session(other.identity, storm.now_us)
        host.drain()
    storm.pass_time(200_000_000)
    for host in storm.hosts.values():
        calls = host.endpoint._calls
        assert calls is not None
        endpoint = host.endpoint
        left = [
            list(endpoint._links),
            endpoint._remotes.flushing,
            endpoint._remotes.requests,
            endpoint._remotes.ended_links,
            host.sockets,
        ]
        left += [calls._calls, calls._callers, calls._ufrags, calls._ready]
        assert not any(left)
