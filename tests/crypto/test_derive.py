"""Key derivation against the recorded and synthetic handshakes."""

from __future__ import annotations

from typing import Any

import pytest

from peergram.crypto.derive import Side, derive_session_keys
from tests.vectors_data import load

VECTORS = load("01-crypto")
HANDSHAKES: list[dict[str, Any]] = [
    *VECTORS["kdf"],
    *({**conversation["inputs"], **conversation} for conversation in VECTORS["conversations"]),
]


def side(given: dict[str, Any]) -> Side:
    return Side(
        connection_id=given["connection_id"],
        nonce=int(given["nonce"], 16),
        cert=bytes.fromhex(given["cert"]),
        info=bytes.fromhex(given["crypt_info"]),
    )


@pytest.mark.parametrize("handshake", HANDSHAKES, ids=lambda handshake: handshake["name"])
def test_keys_and_ivs_equal_the_vectors(handshake: dict[str, Any]) -> None:
    expected = handshake["derived"]
    keys = derive_session_keys(
        bytes.fromhex(expected["x25519_raw"]), client=side(handshake["client"]), server=side(handshake["server"])
    )
    assert keys.client_to_server.key.hex() == expected["key_c2s"]
    assert keys.server_to_client.key.hex() == expected["key_s2c"]
    assert keys.client_to_server.iv.hex() == expected["iv_c2s"]
    assert keys.server_to_client.iv.hex() == expected["iv_s2c"]


def test_every_input_changes_every_key() -> None:
    client, server = Side(1, 2, b"client cert", b"client info"), Side(3, 4, b"server cert", b"server info")
    variants = [(client, server)]
    for name, value in (("connection_id", 9), ("nonce", 9), ("cert", b"x"), ("info", b"x")):
        for which in (0, 1):
            pair = [Side(1, 2, b"client cert", b"client info"), Side(3, 4, b"server cert", b"server info")]
            setattr(pair[which], name, value)
            variants.append((pair[0], pair[1]))
    variants.append((server, client))
    seen = [derive_session_keys(b"s" * 32, client=a, server=b) for a, b in variants]
    seen.append(derive_session_keys(b"t" * 32, client=client, server=server))
    for pick in ("client_to_server", "server_to_client"):
        assert len({getattr(keys, pick).key for keys in seen}) == len(seen)
        assert len({getattr(keys, pick).iv for keys in seen}) == len(seen)


def test_keys_never_show() -> None:
    keys = derive_session_keys(b"s" * 32, client=Side(1, 2, b"", b""), server=Side(3, 4, b"", b""))
    for direction in (keys.client_to_server, keys.server_to_client):
        for secret in (direction.key, direction.iv):
            assert secret.hex() not in repr(keys)
            assert repr(secret)[2:-1] not in repr(keys)
