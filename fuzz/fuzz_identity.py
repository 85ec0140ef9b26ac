"""Identity and address text, and what maps one to the other."""

from __future__ import annotations

from contextlib import suppress

from fuzz.run import load_vectors, run
from peergram.adapters.address_book import read_mapping
from peergram.address import address_bytes, canonical_address, format_address, parse_address, read_reference_address
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.wire.certificates import read_identity, write_identity


def fuzz_one(data: bytes) -> None:
    """A text is refused with UsageError, or is an identity with one canonical text that reads back, here and from the wire.
    Address text is None or a canonical address, which the strict reader knows too."""
    try:
        identity = Identity.parse_bytes(data)
    except UsageError:
        pass
    else:
        assert Identity.parse(identity.text) == identity
        assert Identity.parse_bytes(identity.text_bytes).content == identity.content
        assert read_identity(write_identity(identity)) == identity
        assert identity.printable.isprintable()
    with suppress(UsageError):
        place, identity = read_mapping(data.decode("utf-8", "surrogateescape"))
        assert place
        assert identity.is_valid
    address = read_reference_address(data)
    if address is not None:
        assert canonical_address(*address) == address
        assert parse_address(format_address(address)) == address
        assert len(address_bytes(address)) == 18


def seeds() -> list[bytes]:
    """The texts that the reference was asked about."""
    vectors = load_vectors("03-identity")
    rows = vectors["identity_strings"] + vectors["ip_address_strings"]
    texts = [bytes.fromhex(row["input"]) if row.get("input_is_hex") else row["input"].encode() for row in rows]
    return [*texts, b"10.0.0.2:5683=bob", b"[2001:db8::1]:53=str:alice"]


if __name__ == "__main__":
    run(fuzz_one, seeds())
