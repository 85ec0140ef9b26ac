"""Seal and open one packet: AES-256-GCM, or nothing at all where both sides asked for that.

Wire protocol, part 1, chapter 11: 16-byte tag at the end, no associated data, and a nonce that is the base IV with the full
64-bit packet number added to its first eight bytes. One cipher object serves one direction of one connection. Whoever calls
`seal` gives every packet number once, and stops at `config.PACKET_NUMBER_MAX`.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from peergram.config import DATAGRAM_BYTES_OWN_PEER_MAX
from peergram.crypto.derive import DirectionKeys
from peergram.wire.certificates import CIPHER_AES_256_GCM, CIPHER_NONE

TAG_BYTES: Final = 16
_SEALED_BYTES_MAX: Final = DATAGRAM_BYTES_OWN_PEER_MAX + TAG_BYTES

_U64_MASK: Final = (1 << 64) - 1
_pack_nonce: Final = struct.Struct("<Q4s").pack


class PacketCipher(Protocol):
    """What a connection needs of a cipher."""

    @property
    def overhead_bytes(self) -> int:
        """How much longer a sealed packet is than its plaintext."""

    def seal(self, packet_number: int, plaintext: bytes) -> bytes:
        """What goes on the wire for `plaintext`."""

    def open(self, packet_number: int, sealed: bytes | memoryview) -> bytes | None:
        """The plaintext, or None if the packet is forged, damaged, or longer than any honest one."""

    def seal_run(self, packet_number: int, plaintexts: list[bytes]) -> list[bytes]:
        """`seal` for packets of consecutive numbers."""

    def open_run(self, packet_number: int, sealed: list[bytes]) -> list[bytes]:
        """`open` for packets of consecutive numbers, up to the first that does not open."""


class AesGcmCipher:
    """AES-256-GCM for one direction."""

    __slots__ = ("_decrypt", "_encrypt", "_iv_number", "_iv_tail")

    overhead_bytes = TAG_BYTES

    def __init__(self, keys: DirectionKeys) -> None:
        aead = AESGCM(keys.key)
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt
        self._iv_number = int.from_bytes(keys.iv[:8], "little")
        self._iv_tail = keys.iv[8:]

    def nonce(self, packet_number: int) -> bytes:
        """The 12 bytes that make this packet's encryption unique; the sum wraps at 64 bits and does not carry into the tail."""
        return _pack_nonce((self._iv_number + packet_number) & _U64_MASK, self._iv_tail)

    # The nonce is built in place below: a method call would cost more than the arithmetic.

    def seal(self, packet_number: int, plaintext: bytes) -> bytes:
        """Ciphertext and tag."""
        return self._encrypt(_pack_nonce((self._iv_number + packet_number) & _U64_MASK, self._iv_tail), plaintext, None)

    def open(self, packet_number: int, sealed: bytes | memoryview) -> bytes | None:
        """The plaintext, or None; nothing is remembered, so a genuine packet of the same number still opens afterwards."""
        if len(sealed) > _SEALED_BYTES_MAX:
            return None
        try:
            return self._decrypt(_pack_nonce((self._iv_number + packet_number) & _U64_MASK, self._iv_tail), sealed, None)
        except InvalidTag:
            return None

    def seal_run(self, packet_number: int, plaintexts: list[bytes]) -> list[bytes]:
        """`seal` for packets of consecutive numbers."""
        encrypt, tail = self._encrypt, self._iv_tail
        first = self._iv_number + packet_number
        return [encrypt(_pack_nonce(at & _U64_MASK, tail), text, None) for at, text in enumerate(plaintexts, first)]

    def open_run(self, packet_number: int, sealed: list[bytes]) -> list[bytes]:
        """`open` for packets of consecutive numbers, up to the first that does not open."""
        decrypt, tail = self._decrypt, self._iv_tail
        number = self._iv_number + packet_number
        opened: list[bytes] = []
        try:
            for text in sealed:
                if len(text) > _SEALED_BYTES_MAX:
                    break
                opened.append(decrypt(_pack_nonce(number & _U64_MASK, tail), text, None))
                number += 1
        except InvalidTag:
            pass
        return opened

    def __repr__(self) -> str:
        return "<AesGcmCipher>"


class NullCipher:
    """No encryption and no integrity: packets are their plaintext."""

    __slots__ = ()

    overhead_bytes = 0

    def seal(self, packet_number: int, plaintext: bytes) -> bytes:
        """`plaintext` itself."""
        return plaintext

    def open(self, packet_number: int, sealed: bytes | memoryview) -> bytes | None:
        """A copy of `sealed`, or None if it is longer than any honest packet."""
        if len(sealed) > DATAGRAM_BYTES_OWN_PEER_MAX:
            return None
        return bytes(sealed)

    def seal_run(self, packet_number: int, plaintexts: list[bytes]) -> list[bytes]:
        """`plaintexts` themselves."""
        return list(plaintexts)

    def open_run(self, packet_number: int, sealed: list[bytes]) -> list[bytes]:
        """Copies of `sealed`, up to the first that is longer than any honest packet."""
        opened: list[bytes] = []
        for text in sealed:
            if len(text) > DATAGRAM_BYTES_OWN_PEER_MAX:
                break
            opened.append(text)
        return opened

    def __repr__(self) -> str:
        return "<NullCipher>"


def make_cipher(cipher: int, keys: DirectionKeys) -> PacketCipher:
    """The cipher of that number on the wire; the negotiation lets no other number come this far."""
    assert cipher in (CIPHER_NONE, CIPHER_AES_256_GCM)
    return AesGcmCipher(keys) if cipher == CIPHER_AES_256_GCM else NullCipher()
