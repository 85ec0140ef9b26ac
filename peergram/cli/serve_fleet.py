"""The part of `peergram serve` that is about fleets: its options, read and held against each other."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

from peergram.address import format_address
from peergram.errors import UsageError
from peergram.servers.fleet_core import FleetSettings, check_node_name
from peergram.servers.operator_log import tell
from peergram.servers.run import SignalingServer

_SCHEMES = ("nats", "tls")


def default_node_name() -> str:
    """The name of this machine."""
    return socket.gethostname()[:64] or "node"


def fleet_settings(
    urls: tuple[str, ...],
    node: str | None,
    names: str | None,
    has_authority: bool,
    *,
    login: Path | None,
    credentials: Path | None,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
) -> FleetSettings | None:
    """None without `--nats`. Raises UsageError for what does not go together."""
    given = {
        "--nats-login": login, "--nats-creds": credentials, "--nats-ca": ca, "--nats-cert": certificate, "--nats-key": key,
    }  # fmt: skip
    if not urls:
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} is about a NATS server: name one with --nats nats://HOST:PORT")
        return None
    for url in urls:
        _check_url(url)
    if login is not None and credentials is not None:
        raise UsageError("--nats-login contradicts --nats-creds: give one of them")
    if (certificate is None) != (key is None):
        raise UsageError("--nats-cert and --nats-key belong together: give both or neither")
    if names not in (None, "off"):
        raise UsageError(
            f"--names {names!r}: a fleet keeps its names in NATS; leave it out, or give 'off' to let each node decide alone"
        )
    return FleetSettings(
        urls=urls,
        node=check_node_name(node or default_node_name()),
        keeps_names=names is None and not has_authority,
        newer_key_wins=has_authority,
        credentials=credentials,
        login=login,
        tls_ca=ca,
        tls_certificate=certificate,
        tls_key=key,
    )


def tell_started(server: SignalingServer) -> None:
    """The first line of a log."""
    tell(
        "started",
        "serving",
        addresses=[format_address(address) for address in server.addresses],
        urls=[str(url) for url in server.urls()],
        stun=[format_address(address) for address in server.stun_addresses],
        bus=server.fleet.where if server.fleet is not None else None,
    )


def _check_url(text: str) -> None:
    try:
        url = urlsplit(text)
        is_good = url.scheme in _SCHEMES and bool(url.hostname) and url.path in ("", "/") and (url.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good:
        shown = text.rpartition("@")[2]
        raise UsageError(f"--nats {shown!r}: write nats://HOST:PORT or tls://HOST:PORT")
