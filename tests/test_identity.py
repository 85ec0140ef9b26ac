"""Identities: the reference's texts, byte for byte; helpful refusals; fit to be dictionary keys."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.errors import UsageError
from peergram.identity import ANONYMOUS, INVALID, Identity, IdentityKind
from tests.threats.world import full_or
from tests.vectors_data import load

STEAM = 76561197960265729
VECTORS = load("03-identity")["identity_strings"]
SPELLINGS = (b"str:", b"gen:", b"ip:", b"psn:", b"steamid:", b"xboxpwid:", b"stadia:", b"foo:", b"Str:", b"")
PIECES = (
    *(b"alice", b"\xd0\xb0lice", b"a", b"0", b"7", b"00ff", b"0x", b"+", b"-", b" ", b"\t", b":", b".", b"[", b"]", b"/", b"::"),
    *(b"127.0.0.1", b"::1", b"[::ffff:1.2.3.4]:5", b"192.0.2.1:27015", b"76561197960265729", b"\xc3\xa9", b"\xff", b"x" * 31),
    *(b"9" * 25, b"ab" * 32, b"n" * 10_240, b"\xe2\x80\xae", b"e\xcc\x81", b"invalid", b"U:1:1", b"[A:1:2]"),
)
"""Look-alikes, directions, combining marks, numbers of every length: what identity texts are made of, or should not be."""
ACCEPTED = [row for row in VECTORS if row["accepted"]]


def given_text(row: dict[str, Any]) -> bytes:
    return bytes.fromhex(row["input"]) if row.get("input_is_hex") else row["input"].encode()


def spelled(rng: Random, count: int) -> Iterator[bytes]:
    """Texts that may name an identity, and more that nearly do."""
    rows = [given_text(row) for row in VECTORS]
    for number in range(count):
        if number % 4 == 0:
            text = bytearray(rng.choice(rows))
            for _ in range(rng.randrange(3)):
                at = rng.randrange(len(text) + 1)
                text[at : at + rng.randrange(2)] = rng.choice(PIECES) if rng.random() < 0.3 else bytes([rng.randrange(1, 256)])
            yield bytes(text)
        elif number % 4 == 1:
            length = rng.choice((1, 4, 8, 16, 32, 40))
            yield rng.choice(SPELLINGS) + bytes(rng.choice(b"0123456789abcdef") for _ in range(length))
        else:
            yield rng.choice(SPELLINGS) + b"".join(rng.choice(PIECES) for _ in range(rng.randrange(4)))


def reference_layout(identity: Identity) -> bytes:
    """The content as the reference keeps it in memory: text with its zero, the port in host order."""
    if identity.kind == IdentityKind.IP_ADDRESS:
        return identity.content[:16] + identity.content[:15:-1]
    if identity.kind in (IdentityKind.GENERIC_STRING, IdentityKind.UNKNOWN_TYPE, IdentityKind.XBOX_PAIRWISE):
        return identity.content + b"\0"
    return identity.content


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: repr(row["input"][:40]))
def test_what_the_reference_accepts_is_accepted_with_the_same_value_and_text(row: dict[str, Any]) -> None:
    identity = Identity.parse_bytes(given_text(row))
    assert identity.kind == row["type"]
    assert reference_layout(identity) == bytes.fromhex(row["data"])
    assert identity.text_bytes.decode("utf-8", "replace") == row["to_string"]
    assert Identity.parse(str(identity)) == identity


@pytest.mark.parametrize("row", [row for row in VECTORS if not row["accepted"]], ids=lambda row: repr(row["input"][:40]))
def test_what_the_reference_refuses_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Identity.parse_bytes(given_text(row))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (b"gen:  12", "gen:1212"),
        (b"gen:-8", "gen:f8"),
        (b"gen:0xff", "gen:00ff"),
        (b"psn:-18446744073709551616", "psn:18446744073709551615"),
        (b"psn:" + b"0" * 9_000 + b"5", "psn:5"),
        (b"psn:" + b"9" * 9_000, "psn:18446744073709551615"),
        (b"steamid:76561197960265729" + b" " * 200, f"steamid:{STEAM}"),
        (b"psn:\xa05", None),
        (b"psn:+-5", None),
        (b"gen:1   ", None),
        (b"gen:\xa01", None),
    ],
)
def test_corners_of_the_reference_grammar(text: bytes, canonical: str | None) -> None:
    """Beyond the vectors; each asked of the reference's library."""
    if canonical is None:
        with pytest.raises(UsageError):
            Identity.parse_bytes(text)
    else:
        assert str(Identity.parse_bytes(text)) == canonical


@pytest.mark.parametrize("text", [b"str:a\0b", b"foo:\0", b"\0", b"gen:00\0", b"psn:1\0", b"xboxpwid:\0"])
def test_a_zero_byte_is_refused_everywhere_since_the_reference_would_stop_reading_there(text: bytes) -> None:
    with pytest.raises(UsageError, match="zero byte"):
        Identity.parse_bytes(text)


def test_a_plain_word_typed_by_a_person_is_a_string_identity() -> None:
    assert Identity.of("alice") == Identity.parse("str:alice") == Identity.string("alice")
    assert Identity.of("steamid:76561197960265729").kind is IdentityKind.STEAM_ID
    assert Identity.of(ANONYMOUS) is ANONYMOUS


@pytest.mark.parametrize(
    ("who", "hint"),
    [
        ("", "cannot be empty"),
        ("x" * 32, "0 to 31 bytes"),
        ("é" * 16, "0 to 31 bytes of UTF-8, not 32"),
        ("Bob:1", "prefix"),
        ("192.0.2.1:27015", "ip:192.0.2.1:27015"),
        ("steamid:5", "not a valid Steam id"),
        ("steamid:me", "decimal number"),
        ("gen:abc", "two for each byte"),
        ("ip:localhost", "numeric address"),
        ("foo:" + "x" * 124, "longer than 127 bytes"),
        ("a\0b", "zero byte"),
        ("str:\ud800", "UTF-8"),
        (5, "a text such as"),
    ],
)
def test_a_refusal_says_what_would_be_right(who: Any, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        Identity.of(who)


def test_a_refusal_of_a_huge_text_is_short() -> None:
    with pytest.raises(UsageError) as caught:
        Identity.parse("é" * 100_000)
    assert len(str(caught.value)) < 1_000


def test_constructors_and_accessors_agree_with_the_text() -> None:
    key = bytes(range(32))
    assert Identity.generic_bytes(key).public_key_bytes == key
    assert str(Identity.generic_bytes(b"\x00\xff")) == "gen:00ff"
    assert Identity.generic_bytes(b"\x00\xff").public_key_bytes is None
    assert str(Identity.steam_id(STEAM)) == f"steamid:{STEAM}"
    assert (Identity.steam_id(STEAM).number, Identity.psn(7).number, ANONYMOUS.number) == (STEAM, 7, None)
    assert str(Identity.psn(7)) == "psn:7"
    assert str(Identity.xbox_pairwise("ABC")) == "xboxpwid:ABC"
    assert str(Identity.ip(("::ffff:1.2.3.4", 5))) == "ip:1.2.3.4:5"
    assert str(Identity.ip(("fe80::1%eth0", 5))) == "ip:[fe80::1]:5"
    assert Identity.ip(("2001:DB8::1", 0)).ip_address == ("2001:db8::1", 0)
    assert Identity.of("alice").ip_address is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: Identity.generic_bytes(b""),
        lambda: Identity.generic_bytes(bytes(33)),
        lambda: Identity.xbox_pairwise(""),
        lambda: Identity.psn(-1),
        lambda: Identity.psn(1 << 64),
        lambda: Identity.steam_id(STEAM | 1 << 64),
        lambda: Identity.ip(("example.org", 5)),
        lambda: Identity.ip(("1.2.3.4", 65536)),
    ],
)
def test_constructors_refuse_what_has_no_text(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


@pytest.mark.parametrize(
    ("text", "localhost"),
    [
        ("ip:::1", True),
        ("ip:127.0.0.1:99", True),
        ("ip:[::1]:5", True),
        ("ip:127.0.0.2", False),
        ("str:::1", False),
        ("ip:::2", False),
    ],
)
def test_only_the_two_localhost_addresses_are_anonymous(text: str, localhost: bool) -> None:
    assert Identity.parse(text).is_localhost is localhost


def test_spellings_of_one_identity_are_equal_and_hash_alike() -> None:
    one, other = Identity.parse("ip:[2001:DB8:0::1]:080"), Identity.parse("ip:[2001:db8::1]:80")
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1


def test_different_kinds_or_ports_differ() -> None:
    texts = ["str:a", "xboxpwid:a", "foo:a", "gen:aa", "psn:1", "ip:1.2.3.4", "ip:1.2.3.4:1", "ip:::1", "ip:127.0.0.1"]
    assert len({Identity.parse(text) for text in texts}) == len(texts)
    assert Identity.parse("str:a") != "str:a"


def test_the_invalid_identity_is_like_no_other_and_is_not_read_back() -> None:
    assert str(INVALID) == "invalid"
    assert not INVALID.is_valid
    assert ANONYMOUS.is_valid
    assert str(ANONYMOUS) == "ip:::1"
    with pytest.raises(UsageError):
        Identity.parse(str(INVALID))


def test_an_identity_cannot_be_changed_but_copied_and_pickled() -> None:
    alice = Identity.of("alice")
    with pytest.raises(AttributeError):
        alice.content = b"bob"
    with pytest.raises(AttributeError):
        del alice.kind
    assert pickle.loads(pickle.dumps(alice)) == copy.deepcopy(alice) == alice


def test_text_that_is_not_utf8_survives_and_can_still_be_printed() -> None:
    identity = Identity.parse_bytes(b"str:\xff\x1b[2J\xc3\xa9\\")
    assert identity.text_bytes == b"str:\xff\x1b[2J\xc3\xa9\\"
    assert Identity.parse(identity.text) == identity
    assert identity.printable == r"str:\udcff\x1b[2Jé\\"
    assert identity.printable.encode()


@given(
    st.one_of(
        st.binary(max_size=140),
        st.tuples(st.sampled_from([b"str:", b"gen:", b"ip:", b"psn:", b"steamid:", b"a:"]), st.binary(max_size=40)).map(b"".join),
    )
)
def test_any_text_is_refused_or_has_one_canonical_form(text: bytes) -> None:
    try:
        identity = Identity.parse_bytes(text)
    except UsageError:
        return
    again = Identity.parse(str(identity))
    assert again == identity
    assert (again.kind, again.content, again.text) == (identity.kind, identity.content, identity.text)


def test_a_hundred_thousand_spellings_are_refused_or_have_one_form_that_is_read_back() -> None:
    """C5: equal when parsed means equal in text, and no text of a refused one is ever printed."""
    by_text: dict[bytes, Identity] = {}
    accepted = 0
    for text in spelled(Random("identities"), full_or(100_000, 4_000)):
        try:
            identity = Identity.parse_bytes(text)
        except UsageError:
            continue
        accepted += 1
        again = Identity.parse_bytes(identity.text_bytes)
        assert (again, again.text_bytes) == (identity, identity.text_bytes)
        assert Identity.parse(identity.text) == identity
        assert len(identity.text_bytes) <= 127
        assert by_text.setdefault(identity.text_bytes, identity) == identity
    assert accepted > 100
    assert len(by_text) == len(set(by_text.values()))
