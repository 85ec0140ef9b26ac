"""Who sent this check? Names and passwords of requests, and two sides with one role (RFC 8445 section 7.3)."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from peergram.config import ICE_OLD_PASSWORD_US
from peergram.routes.checks import Credentials
from peergram.wire.stun import StunMessage, integrity_holds

_SEPARATOR: Final = b":"


class Guard:
    """Our name and password: only who knows both is answered (D8)."""

    __slots__ = ("_old_password", "_old_until_us", "local")

    def __init__(self, local: Credentials) -> None:
        self.local = local
        self._old_password = b""
        self._old_until_us = 0

    def replace_password(self, password: bytes, now_us: int) -> None:
        """The old one holds until the peer has heard of the new one."""
        self._old_password, self._old_until_us = self.local.password, now_us + ICE_OLD_PASSWORD_US
        self.local = Credentials(self.local.ufrag, password)

    def key_of(self, request: StunMessage, datagram: bytes, remote: Credentials | None, now_us: int) -> bytes | None:
        """The password that a request was signed with; None if it is not from the peer. While the peer's name is unknown, ours
        and our password suffice."""
        if not request.has_integrity or request.username is None:
            return None
        own, _, peers = request.username.partition(_SEPARATOR)
        if own != self.local.ufrag or (remote is not None and peers != remote.ufrag):
            return None
        if integrity_holds(datagram, self.local.password):
            return self.local.password
        if now_us < self._old_until_us and integrity_holds(datagram, self._old_password):
            return self._old_password
        return None


class Conflict(Enum):
    """Whether both sides have one role, and who gives way."""

    NONE = auto()
    WE_GIVE_WAY = auto()
    PEER_GIVES_WAY = auto()


def role_conflict(request: StunMessage, *, controlling: bool, tie_breaker: int) -> Conflict:
    """RFC 8445 section 7.3.1.1: the side with the larger number controls, and says so."""
    if controlling and request.ice_controlling is not None:
        return Conflict.PEER_GIVES_WAY if tie_breaker >= request.ice_controlling else Conflict.WE_GIVE_WAY
    if not controlling and request.ice_controlled is not None:
        return Conflict.WE_GIVE_WAY if tie_breaker >= request.ice_controlled else Conflict.PEER_GIVES_WAY
    return Conflict.NONE
