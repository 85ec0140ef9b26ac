"""Whose a name is, as a node of a fleet knows it between two looks into the store that the fleet shares.

The store keeps what is written there for a certain time from then on, so for a little less than that time nobody else can have
got the name: a lease. While it lasts a node lets the owner in without asking, also when the store is out of reach.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from peergram import config as limits
from peergram.identity import Identity


@dataclass(slots=True)
class _Lease:
    public_key: bytes
    written_at_us: int
    is_proven: bool

    @property
    def until_us(self) -> int:
        kept_us = limits.SERVER_NAME_KEPT_US if self.is_proven else limits.SERVER_NAME_KEPT_SHORT_US
        return self.written_at_us + kept_us - limits.FLEET_LEASE_MARGIN_US

    @property
    def renewed_at_us(self) -> int:
        noted_us = limits.SERVER_NAME_NOTED_US if self.is_proven else limits.SERVER_NAME_NOTED_SHORT_US
        return self.written_at_us + noted_us


class LeasedNames:
    """At most `names_max` of them; of more, those that were written longest ago go."""

    def __init__(self, names_max: int) -> None:
        self._names_max = names_max
        self._leases: OrderedDict[Identity, _Lease] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leases)

    def owner(self, identity: Identity, now_us: int) -> bytes | None:
        """Whose it certainly is; None if the store has to be asked."""
        lease = self._leases.get(identity)
        return lease.public_key if lease is not None and now_us < lease.until_us else None

    def learn(self, identity: Identity, public_key: bytes, is_proven: bool, written_at_us: int) -> None:
        """This stands in the store since then."""
        self._leases[identity] = _Lease(public_key, written_at_us, is_proven)
        self._leases.move_to_end(identity)
        if len(self._leases) > self._names_max:
            self._leases.popitem(last=False)

    def forget(self, identity: Identity) -> None:
        """It turned out not to be so."""
        self._leases.pop(identity, None)

    def is_to_be_renewed(self, identity: Identity, is_proven: bool, now_us: int) -> bool:
        """Whether the owner, who is here, should be written down again: it is a while ago, or he has become `is_proven`."""
        lease = self._leases.get(identity)
        return lease is None or now_us >= lease.renewed_at_us or (is_proven and not lease.is_proven)

    def sweep(self, now_us: int) -> None:
        """Forget those that have run out."""
        for identity in [each for each, lease in self._leases.items() if now_us >= lease.until_us]:
            del self._leases[identity]
