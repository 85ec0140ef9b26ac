"""Whose check is this, and who gives way."""

from __future__ import annotations

import pytest

from peergram.config import ICE_OLD_PASSWORD_US
from peergram.routes.checks import Credentials
from peergram.routes.incoming import Conflict, Guard, role_conflict
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun

LOCAL = Credentials(b"SNFZ4", b"our password")
REMOTE = Credentials(b"NLwr9", b"their password")
NOW = 1_000_000


def key_of(
    guard: Guard, username: bytes | None, key: bytes | None, remote: Credentials | None, now_us: int = NOW
) -> bytes | None:
    message = StunMessage(method=Method.BINDING, message_class=Class.REQUEST, transaction_id=bytes(12), username=username)
    datagram = encode_stun(message, integrity_key=key)
    return guard.key_of(decode_stun(datagram), datagram, remote, now_us)


def test_the_peer_knows_both_names_and_our_password() -> None:
    assert key_of(Guard(LOCAL), b"SNFZ4:NLwr9", LOCAL.password, REMOTE) == LOCAL.password


@pytest.mark.parametrize("username", [None, b"", b"SNFZ4", b"SNFZ4:", b"SNFZ4:other", b"SNFZ4:NLwr9x", b"NLwr9:SNFZ4", b":NLwr9"])
def test_another_name_is_not_the_peers(username: bytes | None) -> None:
    assert key_of(Guard(LOCAL), username, LOCAL.password, REMOTE) is None


@pytest.mark.parametrize("key", [None, b"", b"their password", b"our passwore"])
def test_another_password_is_not_ours(key: bytes | None) -> None:
    assert key_of(Guard(LOCAL), b"SNFZ4:NLwr9", key, REMOTE) is None


def test_while_the_peers_name_is_unknown_ours_suffices() -> None:
    assert key_of(Guard(LOCAL), b"SNFZ4:anybody", LOCAL.password, None) == LOCAL.password
    assert key_of(Guard(LOCAL), b"other:anybody", LOCAL.password, None) is None
    assert key_of(Guard(LOCAL), b"SNFZ4:anybody", b"guess", None) is None


def test_a_replaced_password_holds_for_a_while() -> None:
    guard = Guard(LOCAL)
    guard.replace_password(b"new", NOW)
    assert key_of(guard, b"SNFZ4:NLwr9", b"new", REMOTE) == b"new"
    assert key_of(guard, b"SNFZ4:NLwr9", LOCAL.password, REMOTE, NOW + ICE_OLD_PASSWORD_US - 1) == LOCAL.password
    assert key_of(guard, b"SNFZ4:NLwr9", LOCAL.password, REMOTE, NOW + ICE_OLD_PASSWORD_US) is None


def test_no_password_was_there_before_the_first() -> None:
    assert key_of(Guard(LOCAL), b"SNFZ4:NLwr9", b"", REMOTE, 0) is None


@pytest.mark.parametrize(
    ("controlling", "ours", "theirs", "conflict"),
    [
        (True, 5, 4, Conflict.PEER_GIVES_WAY),
        (True, 5, 5, Conflict.PEER_GIVES_WAY),
        (True, 5, 6, Conflict.WE_GIVE_WAY),
        (False, 5, 4, Conflict.WE_GIVE_WAY),
        (False, 5, 5, Conflict.WE_GIVE_WAY),
        (False, 5, 6, Conflict.PEER_GIVES_WAY),
    ],
)
def test_of_two_sides_with_one_role_the_larger_number_controls(
    controlling: bool, ours: int, theirs: int, conflict: Conflict
) -> None:
    request = StunMessage(method=Method.BINDING, message_class=Class.REQUEST, transaction_id=bytes(12))
    assert role_conflict(request, controlling=controlling, tie_breaker=ours) is Conflict.NONE
    if controlling:
        request.ice_controlled = theirs
    else:
        request.ice_controlling = theirs
    assert role_conflict(request, controlling=controlling, tie_breaker=ours) is Conflict.NONE
    if controlling:
        request.ice_controlling = theirs
    else:
        request.ice_controlled = theirs
    assert role_conflict(request, controlling=controlling, tie_breaker=ours) is conflict
