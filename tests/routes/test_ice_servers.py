"""Servers as people write them, and what they are told when they write something else."""

from __future__ import annotations

import pytest

from peergram.config import ICE_SERVERS_MAX
from peergram.errors import UsageError
from peergram.routes.ice_servers import IceServers, StunServer, TurnServer


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("stun:stun.example.org", StunServer("stun.example.org", 3478)),
        ("STUN:Stun.Example.org:19302", StunServer("stun.example.org", 19302)),
        ("stun:192.0.2.1:5", StunServer("192.0.2.1", 5)),
        ("stun:[2001:DB8::1]:5", StunServer("2001:db8::1", 5)),
        ("stun:[2001:db8::1]", StunServer("2001:db8::1", 3478)),
        ("stun://stun.example.org", StunServer("stun.example.org", 3478)),
        ("turn:turn.example.org", TurnServer("turn.example.org")),
        ("turn:ann:secret@turn.example.org:80?transport=tcp", TurnServer("turn.example.org", 80, "tcp", "ann", "secret")),
        ("turn:ann:secret@turn.example.org?transport=udp", TurnServer("turn.example.org", 3478, "udp", "ann", "secret")),
        ("turns:ann:secret@turn.example.org", TurnServer("turn.example.org", 5349, "tls", "ann", "secret")),
        ("turns:ann:secret@192.0.2.1:443?transport=tcp", TurnServer("192.0.2.1", 443, "tls", "ann", "secret")),
        ("turn:17%3Aann:p@ss:w%40rd@host", TurnServer("host", 3478, "udp", "17:ann", "p@ss:w@rd")),
        (f"turns:a:b@host?fingerprint={'ab' * 32}", TurnServer("host", 5349, "tls", "a", "b", "ab" * 32)),
    ],
)
def test_a_server_is_understood(text: str, server: StunServer | TurnServer) -> None:
    servers = IceServers.of(text)
    assert [*servers.stun, *servers.turn] == [server]


@pytest.mark.parametrize(
    ("text", "help_text"),
    [
        ("", "begins with"),
        ("stun.example.org:3478", "begins with"),
        ("http:host", "begins with"),
        ("stuns:host", "use 'stun:'"),
        ("stun:user:pass@host", "no user"),
        ("stun:", "neither a host name"),
        ("stun:ho st", "neither a host name"),
        ("stun:" + "a" * 254, "neither a host name"),
        ("stun:1.2.3", "not a numeric address"),
        ("stun:host:0", "port"),
        ("stun:host:65536", "port"),
        ("stun:host:x", "port"),
        ("stun:2001:db8::1", "brackets"),
        ("stun:[2001:db8::1", "written as"),
        ("stun:[2001:db8::1]x", "written as"),
        ("stun:host?transport=udp", "knows no option"),
        ("turn:ann@host", "needs both"),
        ("turn::secret@host", "needs both"),
        ("turn:a:b@host?transport=sctp", "udp or tcp"),
        ("turns:a:b@host?transport=udp", "DTLS"),
        ("turn:a:b@host?fingerprint=ab", "knows no option"),
        ("turns:a:b@host?fingerprint=ab", "64 hexadecimal"),
        (f"turn:{'a' * 509}:b@host", "at most 508"),
    ],
)
def test_what_is_wrong_is_said(text: str, help_text: str) -> None:
    with pytest.raises(UsageError, match=help_text):
        IceServers.of(text)


def test_passwords_are_not_shown() -> None:
    servers = IceServers.of("turn:ann:secret@turn.example.org")
    assert "secret" not in repr(servers)
    for text in ("turn:ann:secret@ho st", "tern:ann:secret@host", "turn:ann:secret@host:0", "turn:ann:secret@host?transport=x"):
        with pytest.raises(UsageError) as caught:
            IceServers.of(text)
        assert "secret" not in str(caught.value)


def test_the_same_server_twice_is_one() -> None:
    assert len(IceServers.of("stun:host", "stun:host:3478").stun) == 1


def test_more_servers_than_the_limit_are_refused() -> None:
    IceServers.of(*[f"stun:host{number}" for number in range(ICE_SERVERS_MAX)])
    with pytest.raises(UsageError, match="9 STUN servers"):
        IceServers.of(*[f"stun:host{number}" for number in range(ICE_SERVERS_MAX + 1)])
