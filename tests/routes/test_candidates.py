"""Candidate text and numbers as the reference has them, and nothing else taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.address import Address, canonical_address
from peergram.config import ICE_CANDIDATE_BYTES_MAX
from peergram.errors import WireError
from peergram.routes.candidates import (
    PRIORITY_MAX,
    Base,
    Candidate,
    CandidateKind,
    LocalCandidate,
    decode_candidate,
    encode_candidate,
    foundation_of,
    is_broadcast,
    is_same_subnet,
    is_usable,
    low_candidate,
    low_priority_of,
    may_pair,
    priority_of,
    ufrag_of,
)
from tests.vectors_data import load

VECTORS = load("03-ice")
KINDS = list(CandidateKind)
GOOD = "candidate:36385393 0 udp 2130706431 10.78.0.1 45680 typ host"

hosts = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str).filter(
    lambda text: ":" in canonical_address(text, 1)[0] and "." not in text
)
candidates = st.builds(
    Candidate,
    kind=st.sampled_from(KINDS),
    address=st.tuples(hosts, st.integers(1, 65_535)).map(lambda item: canonical_address(*item)),
    priority=st.integers(0, PRIORITY_MAX),
    foundation=st.text("0123456789abcdefXYZ+/", min_size=1, max_size=32),
)


def local(address: Address, prefix_bits: int | None = None, relay_id: int = 0) -> LocalCandidate:
    kind = CandidateKind.RELAYED if relay_id else CandidateKind.HOST
    return LocalCandidate(Candidate(kind, address, 1, "1"), Base(1, relay_id), address, 65_535, prefix_bits)


@pytest.mark.parametrize("row", VECTORS["ufrag"], ids=lambda row: row["ufrag"])
def test_names_in_checks_come_from_the_connection_id(row: dict[str, Any]) -> None:
    assert ufrag_of(row["connection_id"]) == row["ufrag"].encode()


@pytest.mark.parametrize("text", VECTORS["candidates"])
def test_recorded_candidates_are_read_and_written_byte_for_byte(text: str) -> None:
    candidate = decode_candidate(text)
    assert encode_candidate(candidate) == text
    assert decode_candidate(text.encode()) == candidate
    assert priority_of(candidate.kind, candidate.priority >> 8 & 0xFFFF) == candidate.priority


@given(candidates)
def test_every_candidate_reads_back(candidate: Candidate) -> None:
    text = encode_candidate(candidate)
    assert len(text) <= ICE_CANDIDATE_BYTES_MAX
    assert decode_candidate(text) == candidate


@given(
    st.binary(max_size=600)
    | st.text(max_size=600)
    | candidates.map(encode_candidate).flatmap(lambda text: st.permutations(text)).map("".join)
)
def test_any_other_text_is_a_wire_error_or_a_candidate(text: bytes | str) -> None:
    try:
        candidate = decode_candidate(text)
    except WireError:
        return
    assert decode_candidate(encode_candidate(candidate)) == candidate


@pytest.mark.parametrize(
    "text",
    [
        "candidate:1 0 udp 1 10.0.0.1 1 typ host",
        "candidate:1 1 udp 1 10.0.0.1 1 typ host",
        "candidate:1 0 UDP 1 10.0.0.1 1 typ host",
        "candidate:1  0   udp 1 10.0.0.1 1 typ host",
        "candidate:1 0 udp 1 2001:db8::1 1 typ relay raddr 10.0.0.1 rport 5",
        "candidate:1 0 udp 1 10.0.0.1 1 typ srflx anything goes",
        "candidate:1 0 udp 0 10.0.0.1 1 typ prflx",
    ],
)
def test_what_the_reference_takes_is_taken(text: str) -> None:
    decode_candidate(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "candidate:",
        "candidate",
        GOOD.removeprefix("candidate:"),
        GOOD.replace("candidate", "Candidate"),
        GOOD + " ",
        GOOD + " name",
        GOOD + "\n",
        GOOD + "\0",
        "candidate: " + GOOD.removeprefix("candidate:"),
        GOOD.replace("udp", "tcp"),
        GOOD.replace("typ", "type"),
        GOOD.replace("host", "mdns"),
        GOOD.replace("10.78.0.1", "a1b2.local"),
        GOOD.replace("10.78.0.1", "10.78.0"),
        GOOD.replace("10.78.0.1", "010.78.0.1"),
        GOOD.replace("10.78.0.1", "::ffff:10.78.0.1"),
        GOOD.replace("10.78.0.1", "::ffff:a4e:1"),
        GOOD.replace("10.78.0.1", "fe80::1%eth0"),
        GOOD.replace("10.78.0.1", "[2001:db8::1]"),
        GOOD.replace("45680", "0"),
        GOOD.replace("45680", "65536"),
        GOOD.replace("45680", "-1"),
        GOOD.replace("45680", "+5"),
        GOOD.replace("45680", "٣"),
        GOOD.replace("2130706431", "2147483648"),
        GOOD.replace("2130706431", "-5"),
        GOOD.replace("2130706431", "1e5"),
        GOOD.replace("2130706431", "0" * 11),
        GOOD.replace(" 0 ", " 257 "),
        GOOD.replace(" 0 ", " x "),
        GOOD.replace("36385393", "3" * 33),
        GOOD + " a b" * 200,
        b"candidate:1 0 udp 1 10.0.0.1 1 typ host \xff\xff",
    ],
)
def test_what_we_could_not_send_to_is_refused(text: str | bytes) -> None:
    with pytest.raises(WireError):
        decode_candidate(text)


def test_text_is_read_up_to_its_longest() -> None:
    name = " x " + "y" * (ICE_CANDIDATE_BYTES_MAX - len(GOOD) - 3)
    assert len(GOOD + name) == ICE_CANDIDATE_BYTES_MAX
    decode_candidate(GOOD + name)
    with pytest.raises(WireError):
        decode_candidate(GOOD + name + "y")


@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(0, 65_535), st.integers(0, 65_535))
def test_priorities_order_by_kind_and_then_by_preference(one: CandidateKind, two: CandidateKind, first: int, second: int) -> None:
    order = [CandidateKind.RELAYED, CandidateKind.SERVER_REFLEXIVE, CandidateKind.PEER_REFLEXIVE, CandidateKind.HOST]
    is_higher = (order.index(one), first) > (order.index(two), second)
    assert (priority_of(one, first) > priority_of(two, second)) == is_higher
    assert 0 < priority_of(one, first) <= PRIORITY_MAX
    assert 0 < low_priority_of(one, first) <= 3_000
    if order.index(one) > order.index(two):
        assert low_priority_of(one, first) > low_priority_of(two, second)


def test_a_low_candidate_differs_in_its_priority_only() -> None:
    candidate = local(("10.0.0.1", 1))
    assert low_candidate(candidate) == Candidate(CandidateKind.HOST, ("10.0.0.1", 1), 3_000, "1")


def test_foundations_tell_kinds_hosts_and_servers_apart_but_not_ports() -> None:
    kinds = {foundation_of(kind, ("10.0.0.1", 1), None) for kind in KINDS}
    assert len(kinds) == len(KINDS)
    assert foundation_of(CandidateKind.HOST, ("10.0.0.1", 1), None) == foundation_of(CandidateKind.HOST, ("10.0.0.1", 2), None)
    assert foundation_of(CandidateKind.HOST, ("10.0.0.1", 1), None) != foundation_of(CandidateKind.HOST, ("10.0.0.2", 1), None)
    servers = {
        foundation_of(CandidateKind.SERVER_REFLEXIVE, ("10.0.0.1", 1), (host, 3478)) for host in ("192.0.2.1", "192.0.2.2")
    }
    assert len(servers) == 2
    assert all(text.isdecimal() for text in kinds | servers)


@pytest.mark.parametrize(
    "host",
    [
        *("0.0.0.0", "0.1.2.3", "255.255.255.255", "240.0.0.1", "224.0.0.1", "239.255.255.250", "169.254.1.1"),
        *("169.254.169.254", "::", "ff02::1", "ff0e::1", "fe80::1", "fe80::1%eth0"),
    ],
)
def test_no_check_goes_to_many_hosts_or_none_or_another_link(host: str) -> None:
    assert not is_usable((host, 1000), allow_loopback=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1"])
def test_a_check_goes_to_this_machine_only_if_its_own_addresses_were_gathered(host: str) -> None:
    assert not is_usable((host, 1000), allow_loopback=False)
    assert is_usable((host, 1000), allow_loopback=True)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.255", "100.64.0.1", "8.8.8.8", "2001:db8::1", "fd00::1", "64:ff9b::102:304"]
)
def test_other_hosts_may_be_checked_unless_the_port_is_zero(host: str) -> None:
    assert is_usable((host, 1000), allow_loopback=False)
    assert not is_usable((host, 0), allow_loopback=False)


@pytest.mark.parametrize(
    ("own", "peers", "answer"),
    [
        (("10.0.0.1", 1), ("10.0.0.2", 1), True),
        (("10.0.0.1", 1), ("2001:db8::1", 1), False),
        (("2001:db8::2", 1), ("2001:db8::1", 1), True),
        (("127.0.0.1", 1), ("10.0.0.2", 1), False),
        (("10.0.0.1", 1), ("127.0.0.1", 1), False),
        (("127.0.0.1", 1), ("127.0.0.1", 2), True),
        (("10.0.0.1", 1), ("10.0.0.1", 1), False),
    ],
)
def test_addresses_pair_within_their_family_and_machine(own: Address, peers: Address, answer: bool) -> None:
    assert may_pair(local(own), peers) is answer


def test_the_broadcast_address_of_a_network_we_know_is_not_paired() -> None:
    assert is_broadcast(("192.168.1.255", 5), local(("192.168.1.7", 1), 24))
    assert not may_pair(local(("192.168.1.7", 1), 24), ("192.168.1.255", 5))
    assert may_pair(local(("192.168.1.7", 1), 23), ("192.168.1.254", 5))
    assert may_pair(local(("192.168.1.7", 1), None), ("192.168.1.255", 5))
    assert may_pair(local(("192.168.1.6", 1), 31), ("192.168.1.7", 5))


@pytest.mark.parametrize(
    ("own", "bits", "peers", "answer"),
    [
        ("192.168.1.7", 24, "192.168.1.9", True),
        ("192.168.1.7", 24, "192.168.2.9", False),
        ("192.168.1.7", 16, "192.168.2.9", True),
        ("192.168.1.7", None, "192.168.1.9", True),
        ("192.168.1.7", None, "192.168.2.9", False),
        ("203.0.113.7", 24, "203.0.113.9", False),
        ("fd00::7", 64, "fd00::9", True),
        ("fd00::7", None, "fd00:0:0:1::9", False),
        ("192.168.1.7", 24, "fd00::9", False),
    ],
)
def test_one_subnet_means_a_private_address_of_ours_and_its_network(own: str, bits: int | None, peers: str, answer: bool) -> None:
    assert is_same_subnet(local((own, 1), bits), (peers, 1)) is answer


def test_a_relay_is_in_nobodys_subnet() -> None:
    assert not is_same_subnet(local(("192.168.1.7", 1), 24, relay_id=3), ("192.168.1.9", 1))
