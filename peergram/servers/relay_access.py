"""Who may use a relay: long-term credentials of TURN (RFC 8489 §9.2), and nonces that cost no memory.

Either one name and password for everybody, or names that hold until a time: such a name is `EXPIRY:IDENTITY`, the seconds
since 1970 at which it ends, and its password the base64 of HMAC-SHA1(secret, name), as coturn's `use-auth-secret` and
draft-uberti-behave-turn-rest have it. Whoever holds the secret hands them out, and the relay needs no list. A secret belongs
to one relay: what was made for another one opens nothing here (R2).

A nonce is a time and a MAC over it and the client's host, so a stranger's request leaves nothing behind; and it is short, since
the answer to a stranger should be no longer than what he asked (R5).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from peergram.config import TURN_CREDENTIAL_S_MAX, TURN_NONCE_US
from peergram.wire.stun import long_term_key

_NONCE_MAC_BYTES: Final = 7
_NONCE_TIME_BYTES: Final = 2
_NONCE_TIMES: Final = 1 << 8 * _NONCE_TIME_BYTES
"""After which numbers begin anew: more than a year."""
_EXPIRY_DIGITS_MAX: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAccess:
    """`password` is that of `user`; `secret` is that of names which end. Either may be missing."""

    realm: bytes = b"peergram"
    user: bytes | None = None
    password: bytes | None = field(default=None, repr=False)
    secret: bytes | None = field(default=None, repr=False)

    def key(self, username: bytes, wall_s: int) -> bytes | None:
        """The key of this name's MESSAGE-INTEGRITY, None if it is nobody's or has ended."""
        if self.user is not None and self.password is not None and username == self.user:
            return long_term_key(username, self.realm, self.password)
        if self.secret is not None and _holds_at(username, wall_s):
            return long_term_key(username, self.realm, password_for(self.secret, username))
        return None

    def identity(self, username: bytes, host: str) -> bytes:
        """What quotas are counted by: a name that ends stands for the identity in it, however often that gets a new one; of those
        who share one name each host counts by itself."""
        if username == self.user:
            return username + b"@" + host.encode()
        return username.partition(b":")[2] or username


def password_for(secret: bytes, username: bytes) -> bytes:
    """The password of a name that ends."""
    return base64.b64encode(hmac.digest(secret, username, "sha1"))


def temporary_name(identity: str, ends_wall_s: int) -> bytes:
    """A name that holds until then."""
    return f"{ends_wall_s}:{identity}".encode()


class Nonces:
    """Made and recognised with one key, which lives as long as the server."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, host: str, now_us: int) -> bytes:
        """A nonce for a client at this host."""
        time = (now_us // TURN_NONCE_US % _NONCE_TIMES).to_bytes(_NONCE_TIME_BYTES, "big")
        return base64.urlsafe_b64encode(time + self._mac(host, time))

    def holds(self, nonce: bytes, host: str, now_us: int) -> bool:
        """Whether we gave this to that host, one or two intervals ago at most."""
        try:
            raw = base64.b64decode(nonce, altchars=b"-_", validate=True)
        except ValueError:
            return False
        time, mac = raw[:_NONCE_TIME_BYTES], raw[_NONCE_TIME_BYTES:]
        if not hmac.compare_digest(mac, self._mac(host, time)):
            return False
        return (now_us // TURN_NONCE_US - int.from_bytes(time, "big")) % _NONCE_TIMES <= 1

    def _mac(self, host: str, time: bytes) -> bytes:
        return hashlib.blake2b(time + host.encode(), key=self._key, digest_size=_NONCE_MAC_BYTES).digest()


def _holds_at(username: bytes, wall_s: int) -> bool:
    expiry = username.partition(b":")[0]
    if not expiry.isdigit() or len(expiry) > _EXPIRY_DIGITS_MAX:
        return False
    return wall_s < int(expiry) <= wall_s + TURN_CREDENTIAL_S_MAX
