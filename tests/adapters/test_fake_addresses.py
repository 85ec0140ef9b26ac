from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram import Identity, UsageError
from peergram.adapters.fake_addresses import FakeAddresses, process_addresses
from peergram.config import FAKE_ADDRESSES_MAX


def people(count: int) -> list[Identity]:
    return [Identity.string(f"player {number}") for number in range(count)]


@given(st.lists(st.binary(min_size=1, max_size=32).map(Identity.generic_bytes), unique=True, max_size=50))
def test_each_identity_has_an_address_of_its_own_both_ways_and_keeps_it(identities: list[Identity]) -> None:
    fakes = FakeAddresses()
    hosts = [fakes.host_of(identity) for identity in identities]
    assert len(set(hosts)) == len(hosts) == len(fakes)
    assert [fakes.host_of(identity) for identity in reversed(identities)] == hosts[::-1]
    assert [fakes.identity_of(host) for host in hosts] == identities


def test_beyond_the_limit_newcomers_get_none_and_the_others_keep_theirs() -> None:
    fakes = FakeAddresses()
    crowd = people(FAKE_ADDRESSES_MAX + 1)
    hosts = {identity: fakes.host_of(identity) for identity in crowd[:-1]}
    with pytest.raises(UsageError, match="player 32768 gets no fake address: 32768 identities have one already"):
        fakes.host_of(crowd[-1])
    assert len(fakes) == len(set(hosts.values())) == FAKE_ADDRESSES_MAX
    assert all(fakes.host_of(identity) == host for identity, host in hosts.items())
    numbers = [tuple(map(int, host.split("."))) for host in hosts.values()]
    assert {number[:2] for number in numbers} == {(169, 254)}
    # So many leave out no number but those at the edges.
    assert {number[2] for number in numbers} == {number[3] for number in numbers} == set(range(1, 255))


def test_an_address_that_nobody_was_given_stands_for_nobody() -> None:
    assert FakeAddresses().identity_of("169.254.7.7") is None


def test_an_identity_whose_address_is_free_has_the_same_in_every_process() -> None:
    alice = Identity.string("alice")
    assert FakeAddresses().host_of(alice) == FakeAddresses().host_of(alice)


def test_a_process_has_one_set_for_all_its_networks() -> None:
    assert process_addresses() is process_addresses()
