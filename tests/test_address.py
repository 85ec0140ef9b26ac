"""Addresses: one way to write each, strict for people, lenient as the reference inside identities."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.address import (
    Address,
    address_bytes,
    address_from_bytes,
    canonical_address,
    format_address,
    is_local,
    is_loopback,
    parse_address,
    read_reference_address,
)
from peergram.errors import UsageError
from tests.vectors_data import load


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4:27015", ("1.2.3.4", 27015)),
        (" 1.2.3.4:0 ", ("1.2.3.4", 0)),
        ("[2001:DB8:0::1]:65535", ("2001:db8::1", 65535)),
        ("[::ffff:1.2.3.4]:5", ("1.2.3.4", 5)),
        ("[fe80::1%eth0]:5", ("fe80::1%eth0", 5)),
    ],
)
def test_an_address_with_a_port_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(format_address(address)) == address


@pytest.mark.parametrize("text", ["1.2.3.4", "::1", "[::1]", "fe80::1%2", "2001:db8::2701"])
def test_a_bare_host_takes_the_default_port_and_is_refused_without_one(text: str) -> None:
    assert parse_address(text, 9) == (text.strip("[]"), 9)
    with pytest.raises(UsageError, match="has no port: write it as"):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":5",
        "localhost:5",
        "1.2.3:5",
        "1.2.3.4.5:5",
        "01.2.3.4:5",
        "[1.2.3.4:5",
        "[::1]5",
        "[::1]x:5",
        "[]:5",
        "::g",
        "[fe80::1%]:5",
    ],
)
def test_what_is_not_an_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"write '1\.2\.3\.4:27015'"):
        parse_address(text, 9)


@pytest.mark.parametrize("port", ["65536", "-1", "", "x", "+5", " 5", "123456", "٥"])
def test_a_port_is_a_number_up_to_65535(port: str) -> None:
    with pytest.raises(UsageError, match="port must be"):
        parse_address(f"1.2.3.4:{port}")
    with pytest.raises(UsageError, match="port must be"):
        parse_address(f"[::1]:{port}")


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(UsageError):
        canonical_address("1.2.3.4", 65536)
    with pytest.raises(UsageError):
        parse_address("1.2.3.4", -1)


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:102:304", "1.2.3.4"),
        ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("FE80::A%eth0", "fe80::a%eth0"),
    ],
)
def test_each_host_has_one_way_to_be_written(host: str, canonical: str) -> None:
    assert canonical_address(host, 7) == (canonical, 7)


def test_a_host_name_has_no_canonical_form() -> None:
    with pytest.raises(UsageError, match="numeric address"):
        canonical_address("example.org", 7)


def test_address_bytes_are_the_mapped_address_and_the_port_in_network_order() -> None:
    assert address_bytes(("1.2.3.4", 0x1234)) == bytes(10) + bytes.fromhex("ffff 01020304 1234")
    assert address_bytes(("fe80::1%eth0", 1)) == bytes.fromhex("fe80") + bytes(13) + bytes.fromhex("01 0001")


@given(st.binary(min_size=18, max_size=18))
def test_address_bytes_and_back_is_the_same(data: bytes) -> None:
    address = address_from_bytes(data)
    assert address_bytes(address) == data
    assert canonical_address(*address) == address
    assert parse_address(format_address(address)) == address


@pytest.mark.parametrize(
    ("host", "loopback", "local"),
    [
        ("127.0.0.1", True, False),
        ("127.9.9.9", True, False),
        ("::1", True, False),
        ("10.1.2.3", False, True),
        ("172.16.0.1", False, True),
        ("172.32.0.1", False, False),
        ("192.168.0.1", False, True),
        ("169.254.9.9", False, True),
        ("fe80::1%eth0", False, True),
        ("fd00::1", False, True),
        ("8.8.8.8", False, False),
        ("2001:4860::1", False, False),
    ],
)
def test_loopback_and_local_addresses_are_recognised(host: str, loopback: bool, local: bool) -> None:
    assert (is_loopback((host, 5)), is_local((host, 5))) == (loopback, local)


@pytest.mark.parametrize("row", load("03-identity")["ip_address_strings"], ids=lambda row: repr(row["input"]))
def test_reference_address_text_is_read_and_written_as_the_reference_does(row: dict[str, Any]) -> None:
    address = read_reference_address(row["input"].encode())
    if not row["accepted"]:
        assert address is None
        return
    assert address is not None
    assert address_bytes(address) == bytes.fromhex(row["ip"]) + row["port"].to_bytes(2, "big")
    assert format_address(address) == row["with_port"]
    assert address[0] == row["without_port"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b"-0.1.2.3", ("0.1.2.3", 0)),
        (b"4294967297.1.2.3", ("1.1.2.3", 0)),
        (b"18446744073709551617.1.2.3", None),
        (b"1.2.3.-1", None),
        (b"1.2.3.4:4294967301", ("1.2.3.4", 5)),
        (b"[::1] port  80", ("::1", 80)),
        (b"[::1]port 80", None),
        (b"::1%5 port 80", ("::1", 80)),
        (b"::1%5#80", None),
        (b"::1%", None),
        (b"::.80", ("::", 80)),
        (b"1:2:3:4:5:6:7:8.80", None),
        (b"1:2:3:4:5:6:7::8", None),
        (b"1::2:3:4:5:6:7:8", None),
        (b"::2:::3", None),
        (b"::ffff:1.2.3.4.80", ("1.2.3.4", 80)),
        (b"::ffff:+1.2.3.4", None),
        (b"[1.2.3.4]", None),
        (b"::1\x0b", None),
        (b"[::1]:" + b"0" * 5_000 + b"80", ("::1", 80)),
        (b"9" * 10_000 + b".1.1.1", None),
    ],
)
def test_corners_of_the_reference_address_grammar(text: bytes, read: Address | None) -> None:
    """Beyond the vectors; each asked of the reference's library."""
    assert read_reference_address(text) == read
