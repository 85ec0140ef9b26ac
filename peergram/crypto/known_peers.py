"""Keys that names were seen with: what `trust="pinned"` remembers, as SSH does.

Only fingerprints are kept, which is what people compare and a file shows. A name may have several, such as one for each of a
person's machines. Nothing here reads or writes files: what is new waits in `poll_new` for whoever does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from peergram.config import KNOWN_PEERS_MAX
from peergram.identity import Identity


class KnownPeers:
    """Which keys (`crypto.keys.fingerprint`) a name may have; a name that is not here may have any."""

    __slots__ = ("_count", "_fingerprints", "_new")

    def __init__(self, entries: Iterable[tuple[Identity, str]] = ()) -> None:
        self._fingerprints: dict[Identity, tuple[str, ...]] = {}
        self._count = 0
        self._new: deque[tuple[Identity, str]] = deque()
        for identity, fingerprint in entries:
            self._add(identity, fingerprint)

    def fingerprints_of(self, identity: Identity) -> tuple[str, ...]:
        """Empty for somebody who was never met."""
        return self._fingerprints.get(identity, ())

    def remember(self, identity: Identity, fingerprint: str) -> None:
        """From now on this name has this key; once there are `KNOWN_PEERS_MAX`, no further one is remembered."""
        if self._add(identity, fingerprint):
            self._new.append((identity, fingerprint))

    def replace_all(self, entries: Iterable[tuple[Identity, str]]) -> None:
        """What holds from now on, but for what was not taken by `poll_new` yet."""
        self._fingerprints.clear()
        self._count = 0
        for identity, fingerprint in (*entries, *self._new):
            self._add(identity, fingerprint)

    def poll_new(self) -> tuple[Identity, str] | None:
        """What is to be kept for the next run."""
        return self._new.popleft() if self._new else None

    def _add(self, identity: Identity, fingerprint: str) -> bool:
        present = self._fingerprints.get(identity, ())
        if fingerprint in present or self._count >= KNOWN_PEERS_MAX:
            return False
        self._fingerprints[identity] = (*present, fingerprint)
        self._count += 1
        return True
