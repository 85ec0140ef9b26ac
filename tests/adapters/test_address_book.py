from __future__ import annotations

import pytest

from peergram import Identity, UsageError
from peergram.adapters.address_book import AddressBook, read_mapping
from peergram.adapters.fake_addresses import FakeAddresses

BOB, CAROL = Identity.string("bob"), Identity.string("carol")


def book(**mapped: str) -> AddressBook:
    return AddressBook({place: who for who, place in mapped.items()}, port=5000, fakes=FakeAddresses())


def test_one_port_of_a_host_stands_for_somebody_and_its_other_ports_for_nobody() -> None:
    here = book(bob="10.0.0.2:5683")
    assert here.identity_at("10.0.0.2", 5683) == BOB
    assert here.identity_at("10.0.0.2", 5684) is None
    assert here.address_of(BOB) == ("10.0.0.2", 5683)
    assert here.address_of(BOB, 5683) == ("10.0.0.2", 5683)


def test_from_a_port_that_is_not_written_down_somebody_appears_at_his_fake_address() -> None:
    here = book(bob="10.0.0.2:5683")
    host, port = here.address_of(BOB, 6000)
    assert (host[:8], port) == ("169.254.", 6000)
    assert here.identity_at(host, 6000) == BOB


def test_a_whole_host_stands_for_somebody_with_all_its_ports() -> None:
    here = book(bob="10.0.0.2")
    assert here.identity_at("10.0.0.2", 69) == here.identity_at("10.0.0.2", 50_000) == BOB
    assert here.address_of(BOB, 50_000) == ("10.0.0.2", 50_000)
    assert here.address_of(BOB) == ("10.0.0.2", 5000)


def test_two_ports_of_one_host_may_be_two_people() -> None:
    here = book(bob="127.0.0.1:5001", carol="127.0.0.1:5002")
    assert here.identity_at("127.0.0.1", 5001) == BOB
    assert here.identity_at("127.0.0.1", 5002) == CAROL


def test_somebody_who_is_not_written_down_has_a_fake_address_and_the_fixed_port() -> None:
    here = book()
    host, port = here.address_of(BOB)
    assert port == 5000
    assert here.identity_at(host, port) == BOB
    assert not here.is_mapped(BOB)


def test_an_ipv4_address_may_come_in_ipv6_clothes() -> None:
    assert book(bob="10.0.0.2:53").identity_at("::ffff:10.0.0.2", 53) == BOB


@pytest.mark.parametrize("place", ["[2001:db8::1]:53", "[2001:DB8:0::1]:53"])
def test_ipv6_addresses_have_brackets_before_a_port(place: str) -> None:
    assert book(bob=place).identity_at("2001:db8::1", 53) == BOB


def test_a_name_resolves_to_the_fake_address_of_whom_it_stands_for() -> None:
    here = book(bob="Game.example.org:7777")
    host = here.resolve("game.example.org")
    assert host is not None
    assert here.identity_at(host, 7777) == here.identity_at("game.example.org.", 7777) == BOB
    assert here.resolve("other.example.org") is None
    assert here.address_of(BOB, 7777) == (host, 7777)
    assert here.is_mapped(BOB)


def test_a_name_that_stands_for_two_by_its_ports_resolves_to_neither() -> None:
    assert book(bob="example.org:1", carol="example.org:2").resolve("example.org") is None


def test_an_address_stands_for_one_only() -> None:
    here = book(bob="10.0.0.2:53")
    here.add("10.0.0.2:53", "bob")
    with pytest.raises(UsageError, match=r"10.0.0.2:53 cannot stand for both str:bob and str:carol"):
        here.add("10.0.0.2:53", "carol")


def test_a_mapping_as_people_type_it() -> None:
    assert read_mapping("10.0.0.2:5683=str:bob") == ("10.0.0.2:5683", BOB)
    assert read_mapping("10.0.0.2=bob") == ("10.0.0.2", BOB)


@pytest.mark.parametrize("text", ["", "bob", "=bob", "10.0.0.2:53=", "10.0.0.2:=bob", "10.0.0.2:0=bob", "h:65536=bob", "h:x=bob"])
def test_what_is_no_mapping_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"write it as 10.0.0.2:5683"):
        read_mapping(text)
