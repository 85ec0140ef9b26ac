"""How much one relay forwards for whom (R3), and how many allocations it gives whom (R4).

Bytes are counted by identity, by network (the /24 or /64 that a client's packets come from) and in all. When the latter two are
spent, an identity still has its guarantee, a small rate of its own, so that a few who take all they get do not starve those who
ask for little. Each packet is charged some bytes more than it has, since small ones cost as much work as large ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from peergram import config as limits

_SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayQuotas:
    """The limits of one relay; a rate of 0 is none."""

    allocations_max: int = limits.TURN_ALLOCATIONS_MAX
    allocations_per_identity_max: int = limits.TURN_ALLOCATIONS_PER_IDENTITY_MAX
    allocations_per_host_max: int = limits.TURN_ALLOCATIONS_PER_HOST_MAX
    streams_max: int = limits.TURN_STREAMS_MAX
    streams_per_host_max: int = limits.TURN_STREAMS_PER_HOST_MAX
    identity_bytes_per_s: int = limits.TURN_BYTES_PER_IDENTITY_PER_S
    network_bytes_per_s: int = limits.TURN_BYTES_PER_NETWORK_PER_S
    total_bytes_per_s: int = limits.TURN_BYTES_PER_S


class Bucket:
    """A second's worth of bytes at most."""

    __slots__ = ("at_us", "rate", "room", "users")

    def __init__(self, rate: int, now_us: int) -> None:
        self.rate = rate
        self.room = rate
        self.at_us = now_us
        self.users = 0

    def has(self, count: int, now_us: int) -> bool:
        """Whether so many may go now."""
        if not self.rate:
            return True
        if now_us > self.at_us:
            self.room = min(self.rate, self.room + (now_us - self.at_us) * self.rate // _SECOND_US)
            self.at_us = now_us
        return self.room >= count

    def draw(self, count: int) -> None:
        """They go; at most a second's worth is owed."""
        if self.rate:
            self.room = max(-self.rate, self.room - count)


class Share:
    """What one allocation may draw on."""

    __slots__ = ("_budgets", "guarantee", "host", "identity", "network", "network_name", "of_identity")

    def __init__(
        self,
        budgets: Budgets,
        identity: bytes,
        host: str,
        network_name: str,
        of_identity: Bucket,
        guarantee: Bucket,
        network: Bucket,
    ) -> None:
        self._budgets = budgets
        self.identity = identity
        self.host = host
        self.network_name = network_name
        self.of_identity = of_identity
        self.guarantee = guarantee
        self.network = network

    def admit(self, packets: list[bytes], now_us: int) -> list[bytes]:
        """Those of the packets that may go; nothing waits."""
        if self._take(sum(map(len, packets)) + len(packets) * limits.TURN_PACKET_COST_BYTES, now_us):
            return packets
        return [packet for packet in packets if self._take(len(packet) + limits.TURN_PACKET_COST_BYTES, now_us)]

    def _take(self, count: int, now_us: int) -> bool:
        total = self._budgets.total
        if not self.of_identity.has(count, now_us):
            return False
        if not (self.network.has(count, now_us) and total.has(count, now_us)):
            self.guarantee.rate = min(limits.TURN_BYTES_GUARANTEED_PER_S, self._budgets.fair_rate())
            if not self.guarantee.has(count, now_us):
                return False
            self.guarantee.draw(count)
        self._budgets.taken_bytes += count
        self.of_identity.draw(count)
        self.network.draw(count)
        total.draw(count)
        return True


class Budgets:
    """All shares of one relay."""

    def __init__(self, quotas: RelayQuotas) -> None:
        self.quotas = quotas
        self.total = Bucket(quotas.total_bytes_per_s, 0)
        self.taken_bytes = 0
        """All that was let through, with what packets cost beside their bytes."""
        self._identities: dict[bytes, tuple[Bucket, Bucket]] = {}
        self._networks: dict[str, Bucket] = {}
        self._of_host: Counter[str] = Counter()

    def is_full(self, identity: bytes, host: str, wanted: int) -> bool:
        """Whether they would have more allocations than they may."""
        used = self._identities.get(identity)
        users = 0 if used is None else used[0].users
        quotas = self.quotas
        of_host = self._of_host.get(one_owner(host), 0)
        return users + wanted > quotas.allocations_per_identity_max or of_host + wanted > quotas.allocations_per_host_max

    @property
    def is_in_use(self) -> bool:
        """Whether there is anything to sweep."""
        return bool(self._identities)

    def open(self, identity: bytes, host: str, now_us: int) -> Share:
        """The share of a new allocation."""
        quotas = self.quotas
        if identity not in self._identities:
            guaranteed = Bucket(limits.TURN_BYTES_GUARANTEED_PER_S, now_us)
            self._identities[identity] = Bucket(quotas.identity_bytes_per_s, now_us), guaranteed
        of_identity, guarantee = self._identities[identity]
        name = network_of(host)
        network = self._networks.get(name)
        if network is None:
            network = self._networks[name] = Bucket(quotas.network_bytes_per_s, now_us)
        of_identity.users += 1
        network.users += 1
        owner = one_owner(host)
        self._of_host[owner] += 1
        return Share(self, identity, owner, name, of_identity, guarantee, network)

    def close(self, share: Share) -> None:
        """Its allocation is over. What it owes stays until `sweep`, so that a new allocation is no new second's worth."""
        share.of_identity.users -= 1
        share.network.users -= 1
        self._of_host[share.host] -= 1
        if not self._of_host[share.host]:
            del self._of_host[share.host]

    def sweep(self, now_us: int) -> None:
        """Forget buckets of nobody that are full again."""
        old_us = now_us - 2 * _SECOND_US
        for identity in [each for each, (kept, _) in self._identities.items() if not kept.users and kept.at_us < old_us]:
            del self._identities[identity]
        for name in [each for each, kept in self._networks.items() if not kept.users and kept.at_us < old_us]:
            del self._networks[name]

    def fair_rate(self) -> int:
        """What each identity would have if all that use the relay wanted all they can get."""
        return (self.quotas.total_bytes_per_s or limits.TURN_BYTES_PER_S) // max(1, len(self._identities))


def network_of(host: str) -> str:
    """The /24 or /64 of an address, as a name for it."""
    if ":" not in host:
        return host.rpartition(".")[0]
    head, _, tail = host.partition("%")[0].partition("::")
    groups = head.split(":") if head else []
    behind = tail.split(":") if tail else []
    if "::" in host:
        groups += ["0"] * (8 - len(groups) - len(behind)) + behind
    return ":".join(groups[:4])


def one_owner(host: str) -> str:
    """Whoever has an IPv6 address has its /64."""
    return network_of(host) if ":" in host else host
