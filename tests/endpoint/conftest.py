"""Hosts that take each other for peers of another library."""

from __future__ import annotations

import pytest

from peergram.config import PROTOCOL_VERSION
from peergram.connection import handshake, handshake_client
from peergram.connection.handshake import LocalCredentials, LocalCrypt
from peergram.crypto.keys import AgreementKey, Entropy
from peergram.wire.certificates import KEY_TYPE_CURVE25519, CryptInfo, SignedCryptInfo, encode_crypt_info


def _plain_crypt_info(
    credentials: LocalCredentials,
    agreement_key: AgreementKey,
    ciphers: tuple[int, ...],
    entropy: Entropy,
    *,
    connection_id: int,
) -> LocalCrypt:
    """As `local_crypt_info`, without our capabilities."""
    nonce = int.from_bytes(entropy(8), "little")
    info = encode_crypt_info(CryptInfo(KEY_TYPE_CURVE25519, agreement_key.public_bytes, nonce, PROTOCOL_VERSION, ciphers))
    return LocalCrypt(agreement_key, nonce, SignedCryptInfo(info, credentials.signing_key.sign(info)))


@pytest.fixture
def reference_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hello says that its sender is of this library, so everybody keeps the rules for a reference peer."""
    for module in (handshake, handshake_client):
        monkeypatch.setattr(module, "local_crypt_info", _plain_crypt_info)
