"""An attacker off the path, who knows addresses and has recorded packets, but holds no keys.

He sends noise, packets that look right, old packets, and old packets from addresses of others. None of it may change a session
(V15) or draw more bytes towards a victim than he spent (V9).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from peergram.address import Address
from peergram.sim.link import Datagram, damaged
from peergram.sim.wire_check import CHALLENGE_REQUEST, DATA
from peergram.sim.world import LISTEN_PORT, Host, World

SIZES = (0, 1, 4, 5, 7, 23, 512, 1_300, 1_400, 65_507)
VICTIM_HOSTS = 50


class Attacker:
    """Sends one thing at a time to a host, drawn from a generator of his own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._rng: Random = world.seeded("attacks")
        self._kinds: tuple[Callable[[Host, Address], list[Datagram]], ...] = (
            self._noise,
            self._typed_noise,
            self._challenges,
            self._data_without_keys,
            self._recorded,
        )

    def attack(self, host: Host) -> None:
        """One drawn attack on one of the host's sockets."""
        if not host.sockets:
            return
        target = self._rng.choice(sorted(host.sockets.values()))
        for count, datagram in enumerate(self._rng.choice(self._kinds)(host, target)):
            self.world.inject(datagram, delay_us=count * 100)

    def _stranger(self) -> Address:
        return f"192.0.2.{self._rng.randint(1, VICTIM_HOSTS)}", self._rng.randint(1, 65_535)

    def _noise(self, host: Host, target: Address) -> list[Datagram]:
        return [Datagram(self._stranger(), target, self._rng.randbytes(self._rng.choice(SIZES))) for _ in range(3)]

    def _typed_noise(self, host: Host, target: Address) -> list[Datagram]:
        """Every kind of packet, with nothing sensible in it, also from the address of a real peer."""
        peer = self._rng.choice(self.world.hosts)
        source = self._rng.choice((self._stranger(), (peer.ip, LISTEN_PORT)))
        leads = [CHALLENGE_REQUEST + kind for kind in range(6)] + [DATA, DATA | 1, DATA | 3]
        return [Datagram(source, target, bytes((lead,)) + self._rng.randbytes(self._rng.choice(SIZES[2:-1]))) for lead in leads]

    def _challenges(self, host: Host, target: Address) -> list[Datagram]:
        """Well-formed challenge requests in the name of one victim."""
        victim = self._stranger()
        body = b"\x0d" + self._rng.randbytes(4) + b"\x19" + bytes(8) + b"\x20\x0d"
        packet = bytes((CHALLENGE_REQUEST,)) + len(body).to_bytes(2, "little") + body
        return [Datagram(victim, target, packet.ljust(512, b"\0")) for _ in range(3)]

    def _data_without_keys(self, host: Host, target: Address) -> list[Datagram]:
        """Data packets with guessed connection ids."""
        return [Datagram(self._stranger(), target, bytes((DATA,)) + self._rng.randbytes(60)) for _ in range(3)]

    def _recorded(self, host: Host, target: Address) -> list[Datagram]:
        """What others sent to this host, again, as if from a victim; some of it damaged."""
        recorded = [old for link in self.world.links.values() for old in link.recorded if old.destination[0] == host.ip]
        if not recorded:
            return []
        victim = self._stranger()
        packets = [Datagram(victim, old.destination, old.data) for old in self._rng.choices(recorded, k=5)]
        return [damaged(packet, self._rng) if self._rng.random() < 0.3 else packet for packet in packets]
