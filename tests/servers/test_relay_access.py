"""Who may use a relay, and nonces that cost no memory (R2, R5)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random

import pytest

from peergram.config import TURN_CREDENTIAL_S_MAX, TURN_NONCE_US
from peergram.servers.relay_access import Nonces, RelayAccess, password_for, temporary_name
from peergram.servers.relay_run import RelaySettings
from peergram.wire.stun import long_term_key

_WALL_S = 1_800_000_000


def test_a_name_and_password_for_everybody_make_the_key_of_the_rfc() -> None:
    access = RelayAccess(user=b"u", password=b"p")
    assert access.key(b"u", _WALL_S) == hashlib.md5(b"u:peergram:p").digest()
    assert access.key(b"v", _WALL_S) is None
    assert access.key(b"", _WALL_S) is None


def test_a_name_that_ends_has_the_password_coturn_computes() -> None:
    name = temporary_name("str:ada", _WALL_S + 60)
    assert name == b"1800000060:str:ada"
    assert password_for(b"secret", name) == base64.b64encode(hmac.new(b"secret", name, hashlib.sha1).digest())
    access = RelayAccess(secret=b"secret")
    assert access.key(name, _WALL_S) == long_term_key(name, b"peergram", password_for(b"secret", name))


def test_secrets_do_not_show() -> None:
    access = RelayAccess(user=b"ann", password=b"of-ann", secret=b"of-the-relay")
    assert "of-" not in repr(access) + repr(RelaySettings(binds=(), access=access))


def test_a_name_ends_at_its_time_and_no_time_is_too_far_ahead() -> None:
    access = RelayAccess(secret=b"secret")
    for ends_s, holds in ((0, False), (1, True), (TURN_CREDENTIAL_S_MAX, True), (TURN_CREDENTIAL_S_MAX + 1, False)):
        assert (access.key(temporary_name("a", _WALL_S + ends_s), _WALL_S) is not None) == holds


@pytest.mark.parametrize("name", [b"", b":a", b"a", b"-1:a", b"1e10:a", b" 1800000001:a", b"9" * 5_000 + b":a", b"\xb2:a"])
def test_a_name_without_a_time_is_nobodys(name: bytes) -> None:
    assert RelayAccess(secret=b"secret").key(name, _WALL_S) is None


def test_the_secret_of_another_relay_makes_another_key() -> None:
    name = temporary_name("a", _WALL_S + 60)
    assert RelayAccess(secret=b"one").key(name, _WALL_S) != RelayAccess(secret=b"two").key(name, _WALL_S)


def test_quotas_count_the_identity_and_not_the_time_in_front_of_it() -> None:
    access = RelayAccess(user=b"1:u", password=b"p", secret=b"secret")
    names = (b"1800000001:str:ada", b"1800000002:str:ada")
    assert [access.identity(name, host) for name, host in zip(names, ("192.0.2.1", "192.0.2.2"), strict=True)] == [b"str:ada"] * 2


def test_quotas_count_each_host_of_those_who_share_a_name() -> None:
    access = RelayAccess(user=b"1:u", password=b"p", secret=b"secret")
    assert access.identity(b"1:u", "192.0.2.1") != access.identity(b"1:u", "192.0.2.2")


def test_a_nonce_holds_for_one_host_and_two_intervals_at_most() -> None:
    nonces = Nonces(b"key")
    nonce = nonces.make("192.0.2.1", 5 * TURN_NONCE_US)
    assert len(nonce) == 12
    assert nonces.holds(nonce, "192.0.2.1", 7 * TURN_NONCE_US - 1)
    assert not nonces.holds(nonce, "192.0.2.1", 7 * TURN_NONCE_US)
    assert not nonces.holds(nonce, "192.0.2.1", 5 * TURN_NONCE_US - 1)
    assert not nonces.holds(nonce, "192.0.2.2", 5 * TURN_NONCE_US)
    assert not Nonces(b"other").holds(nonce, "192.0.2.1", 5 * TURN_NONCE_US)


def test_no_forged_nonce_holds() -> None:
    rng = random.Random(1)
    nonces = Nonces(b"key")
    nonce = nonces.make("192.0.2.1", 0)
    forged = [nonce[:at] + bytes((nonce[at] ^ 1 << bit,)) + nonce[at + 1 :] for at in range(len(nonce)) for bit in range(8)]
    forged += [rng.randbytes(rng.randrange(40)) for _ in range(2_000)] + [nonce + nonce, nonce[:-1], b""]
    assert not any(nonces.holds(each, "192.0.2.1", 0) for each in forged)
