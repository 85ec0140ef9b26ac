"""Fake addresses: one of 169.254/16 stands for an identity, for code that insists on `(host, port)`.

The range is that of links without a router (RFC 3927), which no program means for a peer across the internet. An identity gets
its address when it is first seen and keeps it for the life of the process; no other identity ever gets that one. Where it can be
had it is the one that the identity's hash names, so that it is mostly the same in the next run, too.
"""

from __future__ import annotations

import threading
from hashlib import sha256

from peergram.config import FAKE_ADDRESSES_MAX
from peergram.errors import UsageError
from peergram.identity import Identity

_PREFIX = "169.254."
_FIRST, _LAST = 1, 254
"""Of both numbers that are ours: RFC 3927 keeps the first and the last 256 addresses back, and some programs take .0 and .255 at
the end for a network and its broadcast."""
_PER_NUMBER = _LAST - _FIRST + 1
_COUNT = _PER_NUMBER * _PER_NUMBER


class FakeAddresses:
    """Hosts for identities, both ways. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[Identity, str] = {}
        self._identities: dict[str, Identity] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def host_of(self, identity: Identity) -> str:
        """The address that stands for `identity`. Raises UsageError when all that there may be are given out."""
        with self._lock:
            host = self._hosts.get(identity)
            if host is None:
                if len(self._hosts) >= FAKE_ADDRESSES_MAX:
                    raise UsageError(
                        f"{identity.printable} gets no fake address: {FAKE_ADDRESSES_MAX} identities have one already"
                    )
                host = self._hosts[identity] = self._free_host(identity)
                self._identities[host] = identity
            return host

    def identity_of(self, host: str) -> Identity | None:
        """Whom a host stands for; None if for nobody."""
        return self._identities.get(host)

    def _free_host(self, identity: Identity) -> str:
        number = int.from_bytes(sha256(identity.text.encode("utf-8", "surrogateescape")).digest()[:8], "big")
        while (host := _host(number % _COUNT)) in self._identities:
            number += 1
        return host


_OF_PROCESS = FakeAddresses()


def process_addresses() -> FakeAddresses:
    """Those that all of a process share, so that an identity is the same host wherever it appears."""
    return _OF_PROCESS


def _host(number: int) -> str:
    third, fourth = divmod(number, _PER_NUMBER)
    return f"{_PREFIX}{_FIRST + third}.{_FIRST + fourth}"
