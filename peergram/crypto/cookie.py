"""Challenges: proof that a stranger receives what is sent to his address, without remembering him.

Wire protocol, part 1, chapter 6.3. A client only echoes the number, so its making is private to the server. As in the reference
the low 16 bits are coarse time and the rest a keyed hash; ours is BLAKE2s, from the standard library, not SipHash-2-4.
Beyond the reference the hash covers the client's connection id, and the whole time rather than its low bits, so that no challenge
becomes good again 19 hours later; the secret is replaced every 71 minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable

from peergram.address import Address
from peergram.config import CHALLENGE_TICK_US, CHALLENGE_TICKS_MAX

_SECRET_BYTES = 32
_TICKS_PER_SECRET = 1 << 12
_TICK_MASK = 0xFFFF
_HASH_MASK = 0xFFFF_FFFF_FFFF_0000
_HASHED = struct.Struct("<qII")
_U64 = struct.Struct("<Q")


class ChallengeCookies:
    """Makes and checks challenges; holds two secrets and nothing per client."""

    __slots__ = ("_entropy", "_secrets")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._secrets: dict[int, bytes] = {}

    def make(self, remote: Address, connection_id: int, now_us: int) -> int:
        """The challenge, 64 bits, for a client at `remote` that calls itself `connection_id`; good for 3.1 to 4.2 s."""
        return self._challenge(remote, connection_id, now_us // CHALLENGE_TICK_US)

    def check(self, challenge: int, remote: Address, connection_id: int, now_us: int) -> bool:
        """Whether `challenge` was made here for this client, lately. Costs one hash; allocates nothing that stays."""
        tick = now_us // CHALLENGE_TICK_US
        age_ticks = (tick - challenge) & _TICK_MASK
        if age_ticks > CHALLENGE_TICKS_MAX:
            return False
        expected = self._challenge(remote, connection_id, tick - age_ticks)
        return hmac.compare_digest(_U64.pack(expected), _U64.pack(challenge))

    def _challenge(self, remote: Address, connection_id: int, tick: int) -> int:
        host, port = remote
        hashed = _HASHED.pack(tick, port, connection_id) + host.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2s(hashed, digest_size=8, key=self._secret(tick // _TICKS_PER_SECRET)).digest()
        return (int.from_bytes(digest, "little") & _HASH_MASK) | (tick & _TICK_MASK)

    def _secret(self, period: int) -> bytes:
        secret = self._secrets.get(period)
        if secret is None:
            secret = self._entropy(_SECRET_BYTES)
            self._secrets = {old: kept for old, kept in self._secrets.items() if old >= period - 1}
            self._secrets[period] = secret
        return secret

    def __repr__(self) -> str:
        return "<ChallengeCookies>"
