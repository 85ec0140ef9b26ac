"""A relay reaches nothing of its operator's network, however the address is written (R1)."""

from __future__ import annotations

import pytest

from peergram.errors import UsageError
from peergram.servers.relay_peers import PeerPolicy

_IPV4_INSIDE = (
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "224.0.0.1", "255.255.255.255",
)  # fmt: skip
_IPV6_INSIDE = (
    "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b:1::1", "100::1",
    "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "0:0:0:0:0:0:0:1",
)  # fmt: skip


def spellings_of(host: str) -> list[str]:
    """Addresses that hold this IPv4 address: mapped, NAT64, 6to4, Teredo by server and by client."""
    high, low = (int.from_bytes(bytes(map(int, host.split(".")))[at : at + 2], "big") for at in (0, 2))
    turned = f"{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}"
    return [
        f"::ffff:{host}",
        f"64:ff9b::{host}",
        f"2002:{high:x}:{low:x}::1",
        f"2001:0:{high:x}:{low:x}:0:0:f7f7:f7f7",
        f"2001:0:808:808:0:0:{turned}",
    ]


SPELLINGS = [*_IPV4_INSIDE, *_IPV6_INSIDE, *(text for host in _IPV4_INSIDE for text in spellings_of(host))]


def test_the_table_has_at_least_sixty_spellings() -> None:
    assert len(set(SPELLINGS)) >= 60


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_an_inside_address_is_allowed(host: str) -> None:
    policy = PeerPolicy()
    assert not policy.allows_host(host)
    assert not policy.allows((host, 80), is_live_relay=True)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "198.51.100.7", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_hosts_of_the_internet_are_allowed(host: str) -> None:
    assert PeerPolicy().allows((host, 443), is_live_relay=False)


@pytest.mark.parametrize("host", ["198.51.100.7", "::ffff:198.51.100.7", "64:ff9b::198.51.100.7"])
def test_its_own_address_is_reached_only_at_a_live_relayed_address(host: str) -> None:
    policy = PeerPolicy(["198.51.100.7", "2606:4700::7"])
    assert not policy.allows((host, 50_000), is_live_relay=False)
    assert policy.allows((host, 50_000), is_live_relay=True)
    assert not policy.allows(("2606:4700::7", 22), is_live_relay=False)


def test_loopback_is_allowed_on_demand_and_nothing_else_with_it() -> None:
    policy = PeerPolicy(allow_loopback=True)
    assert all(policy.allows_host(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"))
    assert not any(policy.allows_host(host) for host in ("0.0.0.0", "::", "10.0.0.1", "169.254.169.254", "::127.0.0.1"))


@pytest.mark.parametrize("host", spellings_of("8.8.8.8")[2:])
def test_tunnels_of_others_are_denied_wherever_they_lead(host: str) -> None:
    assert not PeerPolicy().allows_host(host)


def test_a_private_network_is_allowed_by_name() -> None:
    policy = PeerPolicy(allow_private=["192.168.7.0/24"])
    assert policy.allows_host("192.168.7.9")
    assert policy.allows_host("::ffff:192.168.7.9")
    assert not policy.allows_host("192.168.8.9")
    with pytest.raises(UsageError, match="is no network"):
        PeerPolicy(allow_private=["192.168.7.9/24"])


def test_what_is_no_address_and_port_zero_are_not_allowed() -> None:
    assert not PeerPolicy().allows_host("example.com")
    assert not PeerPolicy().allows(("8.8.8.8", 0), is_live_relay=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_who_allows_everything_does_not_allow_this_machine(host: str) -> None:
    assert not PeerPolicy(allow_private=["0.0.0.0/0", "::/0"]).allows((host, 22), is_live_relay=False)
