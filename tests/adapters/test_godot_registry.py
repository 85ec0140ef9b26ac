"""GodotSteam's registries: identities and addresses by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peergram.adapters.godot_identities import IdentityRegistry
from peergram.config import GODOT_NAMES_MAX

STEAM_ID = 1 << 56 | 1 << 52 | 1 << 32 | 99


def test_the_registry_keeps_each_kind_and_makes_no_entry_by_being_asked() -> None:
    registry = IdentityRegistry()
    assert registry.toIdentityString("who") == "invalid"
    assert registry.isIdentityInvalid("who")
    assert not registry.setGenericString("who", "alice")
    assert registry.getIdentities() == []
    assert registry.addIdentity("who")
    rows: list[tuple[Callable[[], bool], Callable[[], object], object, str, int]] = [
        (lambda: registry.setGenericString("who", "alice"), lambda: registry.getGenericString("who"), "alice", "str:alice", 2),
        (lambda: registry.setGenericBytes("who", b"\0\xff"), lambda: registry.getGenericBytes("who"), b"\0\xff", "gen:00ff", 3),
        (
            lambda: registry.setIdentitySteamID64("who", STEAM_ID),
            lambda: registry.getIdentitySteamID("who"),
            STEAM_ID,
            f"steamid:{STEAM_ID}",
            16,
        ),
        (lambda: registry.setXboxPairwiseID("who", "abc"), lambda: registry.getXboxPairwiseID("who"), "abc", "xboxpwid:abc", 17),
        (lambda: registry.setStadiaID("who", 8), lambda: registry.getStadiaID("who"), 8, "stadia:8", 19),
        (lambda: registry.setPSNID("who", 7), lambda: registry.getPSNID("who"), 7, "psn:7", 18),
    ]
    for put, get, value, text, kind in rows:
        assert put()
        assert (get(), registry.toIdentityString("who")) == (value, text)
        (entry,) = registry.getIdentities()
        assert entry == {"reference_name": "who", "steam_id": STEAM_ID if kind == 16 else 0, "type": kind}
    assert (registry.getGenericString("who"), registry.getGenericBytes("who"), registry.getXboxPairwiseID("who")) == ("", b"", "")
    assert (registry.getIdentitySteamID("who"), registry.getStadiaID("who"), registry.getIdentityIPAddr("who")) == (0, 0, 0)
    assert registry.setIdentityLocalHost("who")
    assert registry.isIdentityLocalHost("who")
    assert not registry.parseIdentityString("who", "no identity")
    assert registry.toIdentityString("who") == "ip:::1"
    assert registry.clearIdentity("who")
    assert registry.isIdentityInvalid("who")


@pytest.mark.parametrize(
    "put",
    [
        lambda registry: registry.setGenericString("who", "x" * 32),
        lambda registry: registry.setGenericBytes("who", b""),
        lambda registry: registry.setIdentitySteamID("who", 0),
        lambda registry: registry.setIdentitySteamID("who", "text"),
        lambda registry: registry.setXboxPairwiseID("who", ""),
        lambda registry: registry.setXboxPairwiseID("who", None),
        lambda registry: registry.setGenericBytes("who", bytes(33)),
        lambda registry: registry.setGenericBytes("who", 256),
        lambda registry: registry.setGenericString("who", 1),
        lambda registry: registry.setPSNID("who", -1),
        lambda registry: registry.setStadiaID("who", 1 << 64),
        lambda registry: registry.parseIdentityString("who", "invalid"),
        lambda registry: registry.parseIdentityString("who", None),
        lambda registry: registry.setIdentityIPAddr("who", "nowhere"),
    ],
)
def test_what_is_no_identity_changes_nothing(put: Callable[[IdentityRegistry], bool]) -> None:
    registry = IdentityRegistry()
    registry.addIdentity("who")
    assert not put(registry)
    assert registry.isIdentityInvalid("who")


def test_an_entry_that_is_added_again_is_empty() -> None:
    registry = IdentityRegistry()
    registry.addIdentity("who")
    registry.setGenericString("who", "alice")
    assert registry.addIdentity("who")
    assert registry.getIdentities() == [{"reference_name": "who", "steam_id": 0, "type": 0}]


def test_an_account_number_is_a_person_s_steam_id() -> None:
    registry = IdentityRegistry()
    registry.addIdentity("who")
    assert registry.setIdentitySteamID("who", 99)
    assert registry.getIdentitySteamID64("who") == STEAM_ID
    assert registry.setIdentitySteamID("who", STEAM_ID + 1)
    assert registry.getIdentitySteamID64("who") == STEAM_ID + 1
    assert not registry.setIdentitySteamID64("who", 99)


def test_a_number_is_one_byte_and_not_so_many() -> None:
    registry = IdentityRegistry()
    registry.addIdentity("who")
    assert registry.setGenericBytes("who", 7)
    assert registry.toIdentityString("who") == "gen:07"


def test_a_kind_that_nobody_knows_is_kept_word_for_word() -> None:
    registry = IdentityRegistry()
    registry.addIdentity("who")
    for text, kind in (("console_9:ab:c", 4), ("stadia:no", 4), ("stadia:12", 19)):
        assert registry.parseIdentityString("who", text)
        assert (registry.toIdentityString("who"), registry.getIdentities()[0]["type"]) == (text, kind)


@pytest.mark.parametrize(
    ("put", "texts", "ipv4", "is_local_host"),
    [
        (lambda it: it.setIPv4("at", 0x01020304, 5), ("1.2.3.4", "1.2.3.4:5"), 0x01020304, False),
        (lambda it: it.setIPv4("at", 0x7F000001, 0), ("127.0.0.1", "127.0.0.1:0"), 0x7F000001, True),
        (lambda it: it.setIPv6("at", bytes(15) + b"\2", 80), ("::2", "[::2]:80"), 0, False),
        (lambda it: it.setIPv6("at", bytes(10) + b"\xff\xff\1\2\3\4", 80), ("1.2.3.4", "1.2.3.4:80"), 0x01020304, False),
        (lambda it: it.setIPv6LocalHost("at", 65_535), ("::1", "[::1]:65535"), 0, True),
        (lambda it: it.parseIPAddressString("at", "[2001:db8::1]:9"), ("2001:db8::1", "[2001:db8::1]:9"), 0, False),
        (lambda it: it.parseIPAddressString("at", "9.8.7.6"), ("9.8.7.6", "9.8.7.6:0"), 0x09080706, False),
        (lambda it: it.clearIPAddress("at"), ("::", "[::]:0"), 0, False),
    ],
)
def test_an_address_is_set_and_read_in_every_form(
    put: Callable[[IdentityRegistry], bool], texts: tuple[str, str], ipv4: int, is_local_host: bool
) -> None:
    registry = IdentityRegistry()
    registry.addIPAddress("at")
    registry.setIPv4("at", 0x05060708, 9)
    assert put(registry)
    assert (registry.toIPAddressString("at", False), registry.toIPAddressString("at", True)) == texts
    assert (registry.getIPv4("at"), registry.isIPv4("at"), registry.isAddressLocalHost("at")) == (ipv4, ipv4 != 0, is_local_host)
    assert registry.isIPv6AllZeros("at") == (texts[0] == "::")
    assert registry.getIPAddresses() == [{"reference_name": "at", "localhost": is_local_host, "ip_address": ipv4}]
    registry.addIdentity("who")
    assert registry.setIdentityIPAddr("who", "at")
    assert registry.getIdentityIPAddr("who") == ipv4
    assert registry.toIdentityString("who") == "ip:" + texts[0 if texts[1].endswith(":0") else 1]
    assert registry.isIdentityLocalHost("who") == is_local_host
    assert registry.addIPAddress("at")
    assert registry.toIPAddressString("at", True) == "[::]:0"
    # An identity holds a copy.
    assert registry.getIdentityIPAddr("who") == ipv4


@pytest.mark.parametrize(
    "put",
    [
        lambda it: it.setIPv4("at", 1 << 32, 5),
        lambda it: it.setIPv4("at", -1, 5),
        lambda it: it.setIPv4("at", "1.2.3.4", 5),
        lambda it: it.setIPv4("at", 1, 65_536),
        lambda it: it.setIPv4("at", 1, None),
        lambda it: it.setIPv6("at", bytes(15), 5),
        lambda it: it.setIPv6("at", 1, 5),
        lambda it: it.setIPv6LocalHost("at", -1),
        lambda it: it.parseIPAddressString("at", "host.example"),
        lambda it: it.parseIPAddressString("at", "1.2.3.4\0"),
        lambda it: it.parseIPAddressString("at", ""),
        lambda it: it.parseIPAddressString("at", None),
    ],
)
def test_what_is_no_address_changes_nothing(put: Callable[[IdentityRegistry], bool]) -> None:
    registry = IdentityRegistry()
    registry.addIPAddress("at")
    registry.setIPv4("at", 0x05060708, 9)
    assert not put(registry)
    assert registry.toIPAddressString("at", True) == "5.6.7.8:9"


def test_an_address_that_is_asked_for_or_set_without_an_entry_makes_none() -> None:
    registry = IdentityRegistry()
    assert (registry.toIPAddressString("at", True), registry.getIPv4("at"), registry.isIPv4("at")) == ("[::]:0", 0, False)
    assert (registry.isIPv6AllZeros("at"), registry.isAddressLocalHost("at")) == (True, False)
    assert not registry.setIPv4("at", 1, 1)
    assert not registry.setIPv6("at", bytes(16), 1)
    assert not registry.setIPv6LocalHost("at", 1)
    assert not registry.parseIPAddressString("at", "1.2.3.4:5")
    assert not registry.clearIPAddress("at")
    assert registry.getIPAddresses() == []


def test_a_registry_holds_so_many_names_and_no_more() -> None:
    registry = IdentityRegistry()
    for add, entries in ((registry.addIdentity, registry.getIdentities), (registry.addIPAddress, registry.getIPAddresses)):
        assert all(add(str(number)) for number in range(GODOT_NAMES_MAX))
        assert not add("one more")
        assert add("2")
        assert len(entries()) == GODOT_NAMES_MAX
