"""STUN and TURN servers, as a person names them (RFC 7064, RFC 7065, with the credentials in front of the host)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

from peergram.address import PORT_MAX, canonical_address
from peergram.config import ICE_SERVERS_MAX
from peergram.errors import UsageError

STUN_PORT: Final = 3478
"""Of STUN and of TURN."""
TURNS_PORT: Final = 5349
_CREDENTIAL_BYTES_MAX: Final = 508
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_SHAPE: Final = re.compile(
    r"(?P<scheme>stuns?|turns?):(?://)?(?:(?P<user>.*)@)?(?P<place>[^@?]*)(?:\?(?P<query>.*))?", re.I | re.S
)
_HELP: Final = "write 'stun:host:port', 'turn:user:password@host:port?transport=udp' (or tcp), or 'turns:user:password@host:port'"

Transport = Literal["udp", "tcp", "tls"]


@dataclass(frozen=True, slots=True)
class StunServer:
    """Tells us our mapped address."""

    host: str
    port: int = STUN_PORT


@dataclass(frozen=True, slots=True)
class TurnServer:
    """Relays for us. Its password is not shown."""

    host: str
    port: int = STUN_PORT
    transport: Transport = "udp"
    username: str = ""
    """Empty: a server that asks for nothing."""
    password: str = ""
    tls_fingerprint: str | None = None
    """SHA-256 of the certificate to accept, for one that nobody signed."""

    def __repr__(self) -> str:
        user = f"{self.username}:***@" if self.username else ""
        return f"TurnServer({user}{self.host}:{self.port} by {self.transport})"


@dataclass(frozen=True, slots=True)
class IceServers:
    """All servers in order of preference."""

    stun: tuple[StunServer, ...] = ()
    turn: tuple[TurnServer, ...] = ()
    allow_redirect: bool = False
    """Whether a server may send us to another one (error 300), once."""

    def __post_init__(self) -> None:
        for kind, servers in (("STUN", self.stun), ("TURN", self.turn)):
            if len(servers) > ICE_SERVERS_MAX:
                raise UsageError(f"{len(servers)} {kind} servers: {ICE_SERVERS_MAX} are the most that are used")

    @staticmethod
    def of(*texts: str, allow_redirect: bool = False) -> IceServers:
        """Servers from texts such as `stun:stun.example.org` and `turn:user:password@turn.example.org:3478?transport=tcp`.

        Characters of user and password that would end them (`:` in the user, `@`, `/`, `%`) are written as `%` and two
        hexadecimal digits. The port is 3478, for `turns` 5349, where none is given. Raises UsageError.
        """
        servers = [parse_ice_server(text.strip()) for text in texts]
        return IceServers(
            stun=tuple(dict.fromkeys(server for server in servers if isinstance(server, StunServer))),
            turn=tuple(dict.fromkeys(server for server in servers if isinstance(server, TurnServer))),
            allow_redirect=allow_redirect,
        )


def parse_ice_server(text: str) -> StunServer | TurnServer:
    """One server as `IceServers.of` takes it. Raises UsageError."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        # What is wrong may well hold a password: the scheme is all that is repeated.
        raise UsageError(f"a server's address begins with 'stun:', 'turn:' or 'turns:': {_HELP}")
    scheme = match["scheme"].lower()
    if scheme == "stuns":
        raise UsageError("STUN over TLS tells nothing about our UDP sockets: use 'stun:'")
    host, port = _place(match["place"], TURNS_PORT if scheme == "turns" else STUN_PORT)
    options = _options(match["query"] or "", scheme)
    if scheme == "stun":
        if match["user"] is not None:
            raise UsageError(f"the STUN server {host!r} takes no user and password; a relay is written as 'turn:'")
        return StunServer(host, port)
    username, password = _credentials(match["user"], host)
    return TurnServer(host, port, _transport(scheme, options.get("transport")), username, password, options.get("fingerprint"))


def _place(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, closed, port_text = text[1:].partition("]")
        if not closed or port_text[:1] not in ("", ":"):
            raise UsageError(f"{text!r}: an IPv6 address and its port are written as '[2001:db8::1]:3478'")
        port_text = port_text[1:]
    else:
        host, _, port_text = text.partition(":")
        if ":" in port_text:
            raise UsageError(f"{text!r}: an IPv6 address is written in brackets, '[2001:db8::1]:3478'")
    port = default_port
    if port_text:
        if not re.fullmatch("[0-9]{1,5}", port_text) or not 1 <= int(port_text) <= PORT_MAX:
            raise UsageError(f"{text!r}: the port must be a whole number from 1 to {PORT_MAX}")
        port = int(port_text)
    if ":" in host or re.fullmatch(r"[0-9.]+", host):
        return canonical_address(host, port)
    if not _HOST_NAME.fullmatch(host):
        raise UsageError(f"{host!r} is neither a host name nor a numeric address: {_HELP}")
    return host.lower(), port


def _options(query: str, scheme: str) -> dict[str, str]:
    allowed = {"stun": set(), "turn": {"transport"}, "turns": {"transport", "fingerprint"}}[scheme]
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in allowed:
            raise UsageError(f"'{scheme}:' knows no option {name!r}: {_HELP}")
    fingerprint = options.get("fingerprint")
    if fingerprint is not None and not re.fullmatch("[0-9a-fA-F]{64}", fingerprint.replace(":", "")):
        raise UsageError("a fingerprint is SHA-256, 64 hexadecimal digits")
    return options


def _credentials(text: str | None, host: str) -> tuple[str, str]:
    if text is None:
        return "", ""
    username, colon, password = text.partition(":")
    if not username or not colon:
        raise UsageError(f"the TURN server {host!r} needs both: 'turn:user:password@{host}'")
    username, password = unquote(username), unquote(password)
    if max(len(username.encode()), len(password.encode())) > _CREDENTIAL_BYTES_MAX:
        raise UsageError(f"user and password have at most {_CREDENTIAL_BYTES_MAX} bytes")
    return username, password


def _transport(scheme: str, asked: str | None) -> Transport:
    if scheme == "turns":
        if asked not in (None, "tcp"):
            raise UsageError("'turns:' is TLS over TCP; DTLS is not spoken here")
        return "tls"
    if asked in (None, "udp"):
        return "udp"
    if asked == "tcp":
        return "tcp"
    raise UsageError(f"transport={asked}: it is udp or tcp")
