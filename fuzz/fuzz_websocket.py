"""What a signaling server and its clients say to each other, and a server's address."""

from __future__ import annotations

from contextlib import suppress

from fuzz.run import run
from peergram.config import CARRIED_BYTES_MAX
from peergram.errors import UsageError, WireError
from peergram.identity import Identity
from peergram.servers.signaling_core import SignalingCore
from peergram.signaling.server_url import parse_server_url, parse_server_urls
from peergram.signaling.websocket_protocol import (
    CarriedSignal,
    Hello,
    Issued,
    Login,
    Refused,
    Replaced,
    Welcome,
    decode_client_message,
    decode_server_message,
    encode_client_message,
    encode_server_message,
)
from peergram.wire.relay_news import RelayNews, Ticket, Tickets

_ALICE = Identity.of("alice")


def fuzz_one(data: bytes) -> None:
    """A frame is refused with WireError, or is written back as it was (but for a refusal's text, which is read leniently). A
    server that gets it in place of a login says hello, then one last word, and lets nobody in. Any text is a URL with one way to
    write it, or a UsageError."""
    try:
        said = decode_client_message(data)
    except WireError:
        pass
    else:
        assert encode_client_message(said) == data
        if isinstance(said, CarriedSignal):
            assert len(said.blob) <= CARRIED_BYTES_MAX
    try:
        told = decode_server_message(data)
    except WireError:
        pass
    else:
        assert isinstance(told, Refused) or encode_server_message(told) == data
    core = SignalingCore(entropy=bytes, accepts_url=lambda url, local: True, now_us=0)
    core.handle_connected(1, ("192.0.2.1", 5), ("192.0.2.7", 27_180), 0)
    core.handle_ready(1, 0)
    core.handle_frame(1, data, 0)
    assert core.clients == 0
    outputs = 0
    while core.poll_output() is not None:
        outputs += 1
    assert outputs == 2
    text = data.decode("utf-8", "surrogateescape")
    with suppress(UsageError):
        url = parse_server_url(text)
        assert parse_server_url(str(url)) == url
    with suppress(UsageError):
        urls = parse_server_urls(text)
        assert parse_server_urls(list(map(str, urls))) == urls


def seeds() -> list[bytes]:
    """One of each message, and a URL."""
    return [
        encode_server_message(Hello(1, bytes(32))),
        encode_client_message(Login(_ALICE, bytes(32), bytes(32), "wss://host:1/#sha256=" + "00" * 32, bytes(64))),
        encode_client_message(Login(_ALICE, bytes(32), bytes(32), "ws://host:1/", bytes(64), b"certificate")),
        encode_server_message(Welcome()),
        encode_server_message(Issued(b"certificate")),
        encode_client_message(CarriedSignal(_ALICE, b"blob" * 20)),
        encode_server_message(RelayNews(b'{"version": 1, "pops": []}')),
        encode_server_message(Tickets((Ticket("fra", "1:str:a", "secret"), Ticket("ams", "1:str:a", "other")), 3_600)),
        encode_server_message(Replaced()),
        encode_server_message(Refused(7, "busy")),
        b"wss://chat.example.org:443/path/#sha256=" + b"ab" * 32,
    ]


if __name__ == "__main__":
    run(fuzz_one, seeds())
