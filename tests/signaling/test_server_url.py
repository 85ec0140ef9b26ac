"""The address of a server, as people type it and as clients claim it."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import SERVER_URLS_MAX
from peergram.errors import UsageError
from peergram.signaling.server_url import ServerUrl, parse_server_url, parse_server_urls

PIN = "ab" * 32


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("wss://chat.example.org", ServerUrl(True, "chat.example.org", 443)),
        ("ws://Chat.Example.ORG./", ServerUrl(False, "chat.example.org", 80)),
        ("wss://chat.example.org:8443/signals/", ServerUrl(True, "chat.example.org", 8443, "/signals/")),
        (f"wss://192.0.2.7:27180/#sha256={PIN}", ServerUrl(True, "192.0.2.7", 27180, "/", bytes.fromhex(PIN))),
        (f"wss://192.0.2.7#sha256={PIN.upper()}", ServerUrl(True, "192.0.2.7", 27180, "/", bytes.fromhex(PIN))),
        ("ws://[2001:DB8::0:7]:9", ServerUrl(False, "2001:db8::7", 9)),
        ("ws://localhost:9", ServerUrl(False, "localhost", 9)),
    ],
)
def test_what_is_understood(text: str, url: ServerUrl) -> None:
    assert parse_server_url(text) == url
    assert parse_server_url(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "chat.example.org", "http://chat.example.org", "wss://", "wss://:80", "wss://a b", "wss://ä.example"),
        *("wss://user@host", "wss://host:70000", "wss://host:x", "wss://host/?a=b", "wss://host/\r\nX: y", "wss://host/a\0"),
        *("wss://host/#sha256=ab", f"ws://host/#sha256={PIN}", f"wss://host/#sha1={PIN}", "wss://1.2.3.400", "wss://[::1"),
        *("wss://host/é", "wss://" + "a" * 600, 'wss://ho"st/', "wss://host/<>"),
    ],
)
def test_what_is_not_gets_a_sentence(text: str) -> None:
    with pytest.raises(UsageError):
        parse_server_url(text)


@given(st.text(max_size=80) | st.text("wsWS:/#[]@?%.0123456789abcdef", max_size=80).map(lambda text: "wss://" + text))
def test_any_text_is_a_url_with_one_way_to_write_it_or_a_usage_error(text: str) -> None:
    try:
        url = parse_server_url(text)
    except UsageError:
        return
    assert parse_server_url(str(url)) == url


@pytest.mark.parametrize("filler", ["a", "a.", "a-", "/", "/a", "%41", "[", "@", ":", "#"])
def test_long_texts_that_almost_match_take_no_longer(filler: str) -> None:
    """A client may claim any text; nothing here may look at it more than a few times."""
    long = (filler * 500)[:490]

    begin_s = time.process_time()
    for text in (f"wss://{long}!", f"wss://{long}", f"wss://host/{long}<", f"wss://host/#{long}"):
        with suppress(UsageError):
            parse_server_url(text)
    assert time.process_time() - begin_s < 1.0


def test_loopback_is_known() -> None:
    for text in ("ws://127.0.0.1:9", "ws://[::1]:9", "ws://localhost:9", "ws://127.1.2.3:9"):
        assert parse_server_url(text).is_loopback
    for text in ("ws://192.0.2.7:9", "ws://localhost.example:9"):
        assert not parse_server_url(text).is_loopback


def test_several_servers_stand_in_one_text_or_in_a_list() -> None:
    both = parse_server_urls("wss://a.example, ws://b.example:99/x,y")
    assert [str(url) for url in both] == ["wss://a.example:443/", "ws://b.example:99/x,y"]
    assert parse_server_urls(["wss://a.example", "ws://b.example:99/x,y"]) == both
    assert len(parse_server_urls("wss://a.example,wss://a.example/")) == 1


def test_no_server_and_too_many_get_a_sentence() -> None:
    for bad in ([], ["ws://a"] * (SERVER_URLS_MAX + 1)):
        with pytest.raises(UsageError, match="addresses of servers"):
            parse_server_urls(bad)
    with pytest.raises(UsageError, match="is not the name of a host"):
        parse_server_urls("wss://a.example,https://b.example")
