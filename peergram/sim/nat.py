"""NAT boxes in virtual time: which outside address a packet gets, and which packets come back in.

The kinds are those of RFC 3489, in the words of RFC 4787:

| kind | outside port for one inside socket (mapping) | who may send to it (filtering) |
| --- | --- | --- |
| none | no translation | everybody |
| full-cone | the same for all destinations | everybody |
| address-restricted | the same for all destinations | hosts it has sent to |
| port-restricted | the same for all destinations | address and port pairs it has sent to |
| symmetric | a new random one for each destination | the one destination |
| udp-blocked | UDP does not pass | nobody |

Pure: time is an argument, the outcome is the translated address or None, and random ports come from the generator given.
Packets that are refused leave no state behind: an early probe of a peer does not spoil the mapping for the later outgoing one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Literal

from peergram.address import Address
from peergram.errors import UsageError

RANDOM_PORTS = (1_024, 65_535)


class NatKind(StrEnum):
    """How a box maps and filters UDP."""

    NONE = "none"
    FULL_CONE = "full-cone"
    ADDRESS_RESTRICTED = "address-restricted"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"
    UDP_BLOCKED = "udp-blocked"


NAT_KINDS = tuple(NatKind)
HAIRPINNING_KINDS = (NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class NatModel:
    """How a box behaves; the defaults are the most common home router."""

    kind: NatKind = NatKind.PORT_RESTRICTED
    ports: Literal["preserve", "random"] = "preserve"
    """Of the cone kinds: keep the inside port if it is free outside, or pick any."""
    timeout_us: int = 60_000_000
    """An idle mapping, and each permission in it, lives so long."""
    hairpin: bool = False
    """Whether inside hosts reach each other through the outside address; for full-cone and address-restricted."""
    inbound_refreshes: bool = True
    """Whether a packet that comes in keeps the mapping alive (RFC 4787 REQ-6 leaves it open); one that goes out always does."""

    def __post_init__(self) -> None:
        if self.hairpin and self.kind not in HAIRPINNING_KINDS:
            raise UsageError(f"a {self.kind} NAT has no hairpin: only {' and '.join(HAIRPINNING_KINDS)} have")


@dataclass(slots=True)
class _Mapping:
    inside: Address
    outside_port: int
    destination: Address | None
    """The only one it serves, if the mapping depends on it."""
    remotes: dict[Address, int] = field(default_factory=dict)
    """When the permission of each destination that was sent to ends."""
    ends_us: int = 0


class Nat:
    """One box with one outside address; `translate_out` and `translate_in` are all that packets see of it."""

    def __init__(self, model: NatModel, outside: str, rng: Random) -> None:
        self.model = model
        self.outside = outside
        self._rng = rng
        self._ports_random = model.ports == "random"
        self._by_inside: dict[tuple[Address, Address | None], _Mapping] = {}
        self._by_port: dict[int, _Mapping] = {}

    def translate_out(self, source: Address, destination: Address, now_us: int) -> Address | None:
        """The source that a packet from inside has outside; None if it does not pass."""
        kind = self.model.kind
        if kind == NatKind.NONE:
            return source
        if kind == NatKind.UDP_BLOCKED:
            return None
        mapping = self._mapping(source, destination, now_us)
        if mapping is None:
            return None
        mapping.ends_us = mapping.remotes[destination] = now_us + self.model.timeout_us
        return self.outside, mapping.outside_port

    def translate_in(self, source: Address, destination: Address, now_us: int) -> Address | None:
        """The inside socket that a packet from outside, sent to `destination`, reaches; None if it is refused."""
        if self.model.kind == NatKind.NONE:
            return destination
        mapping = self._by_port.get(destination[1]) if destination[0] == self.outside else None
        if mapping is None or mapping.ends_us <= now_us or not self._lets_in(mapping, source, now_us):
            return None
        if self.model.inbound_refreshes:
            mapping.ends_us = now_us + self.model.timeout_us
            if source in mapping.remotes:
                mapping.remotes[source] = mapping.ends_us
        return mapping.inside

    def translate_hairpin(self, source: Address, destination: Address, now_us: int) -> tuple[Address, Address] | None:
        """Source and destination, both translated, of a packet from inside to the outside address of this box itself.

        Filtering does not apply: an inside host counts as known (RFC 4787 REQ-9).
        """
        if not self.model.hairpin or destination[0] != self.outside:
            return None
        target = self._by_port.get(destination[1])
        if target is None or target.ends_us <= now_us:
            return None
        inside = target.inside
        outside = self.translate_out(source, destination, now_us)
        return None if outside is None else (outside, inside)

    def rebind(self, outside: str | None = None) -> None:
        """A restart: all mappings are forgotten, ports are random from now on (kept ones would come back as they were)."""
        self.outside = outside or self.outside
        self._ports_random = True
        self._by_inside.clear()
        self._by_port.clear()

    def mappings(self, now_us: int) -> int:
        """How many are alive."""
        return sum(mapping.ends_us > now_us for mapping in self._by_inside.values())

    def _lets_in(self, mapping: _Mapping, source: Address, now_us: int) -> bool:
        match self.model.kind:
            case NatKind.FULL_CONE:
                return True
            case NatKind.ADDRESS_RESTRICTED:
                return any(host == source[0] and ends_us > now_us for (host, _), ends_us in mapping.remotes.items())
            case _:
                return mapping.remotes.get(source, 0) > now_us

    def _mapping(self, source: Address, destination: Address, now_us: int) -> _Mapping | None:
        own_destination = destination if self.model.kind == NatKind.SYMMETRIC else None
        mapping = self._by_inside.get((source, own_destination))
        if mapping is not None and mapping.ends_us > now_us:
            return mapping
        self._forget_expired(now_us)
        port = self._free_port(source[1])
        if port is None:
            return None
        mapping = _Mapping(source, port, own_destination)
        self._by_inside[source, own_destination] = self._by_port[port] = mapping
        return mapping

    def _free_port(self, wanted: int) -> int | None:
        keeps = not self._ports_random and self.model.kind != NatKind.SYMMETRIC
        if keeps and wanted not in self._by_port:
            return wanted
        low, high = RANDOM_PORTS
        if len(self._by_port) > high - low:
            return None
        while True:
            port = self._rng.randint(low, high)
            if port not in self._by_port:
                return port

    def _forget_expired(self, now_us: int) -> None:
        for key in [key for key, mapping in self._by_inside.items() if mapping.ends_us <= now_us]:
            del self._by_port[self._by_inside.pop(key).outside_port]


class Firewall:
    """A stateful filter without translation, as before the IPv6 prefix of most homes: in comes what answers something."""

    def __init__(self, timeout_us: int = 60_000_000, *, blocks_udp: bool = False) -> None:
        self.timeout_us = timeout_us
        self.blocks_udp = blocks_udp
        self._flows: dict[tuple[Address, Address], int] = {}

    def translate_out(self, source: Address, destination: Address, now_us: int) -> Address | None:
        """`source` itself, unless nothing passes."""
        if self.blocks_udp:
            return None
        self._flows[source, destination] = now_us + self.timeout_us
        return source

    def translate_in(self, source: Address, destination: Address, now_us: int) -> Address | None:
        """`destination` itself, if it has sent to `source` lately."""
        if self._flows.get((destination, source), 0) <= now_us:
            return None
        self._flows[destination, source] = now_us + self.timeout_us
        return destination

    def rebind(self) -> None:
        """A restart: no flow is known any more."""
        self._flows.clear()
