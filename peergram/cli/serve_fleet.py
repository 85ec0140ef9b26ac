"""The part of `peergram serve` that is about fleets: its options, read and held against each other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from peergram.address import format_address
from peergram.errors import UsageError
from peergram.servers.fleet_core import FleetSettings, check_node_name
from peergram.servers.operator_log import tell
from peergram.servers.run import SignalingServer

_SCHEMES = ("nats", "tls")
_ABOUT_SERVERS = ("nats_login", "nats_creds", "nats_ca", "nats_cert", "nats_key")
_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--nats", "nats", metavar="URL", multiple=True,
        help="Be a node of a fleet that shares a NATS cluster; one of its servers, nats://HOST:PORT or tls://… (repeatable).",
    ),
    click.option("--node", metavar="NAME", help="What this node is called among the others [default: the name of this machine]."),
    click.option("--nats-login", metavar="FILE", type=_FILE, help="One line, USER PASSWORD, for the NATS servers."),
    click.option("--nats-creds", metavar="FILE", type=_FILE, help="Or a credentials file of NATS."),
    click.option("--nats-ca", metavar="FILE", type=_FILE, help="Who vouches for the NATS servers, PEM."),
    click.option("--nats-cert", metavar="FILE", type=_FILE, help="Our certificate for them, PEM."),
    click.option("--nats-key", metavar="FILE", type=_FILE, help="Its private key, PEM."),
)  # fmt: skip


def default_node_name() -> str:
    """The name of this machine."""
    return socket.gethostname()[:64] or "node"


def fleet_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds them; the command gets them as `words` for `fleet_settings`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def fleet_settings(words: dict[str, Any], names: str | None, *, has_authority: bool) -> FleetSettings | None:
    """None without `--nats`. Raises UsageError for what does not go together."""
    urls: tuple[str, ...] = words["nats"]
    login, credentials, certificate, key = words["nats_login"], words["nats_creds"], words["nats_cert"], words["nats_key"]
    if not urls:
        for name in _ABOUT_SERVERS:
            if words[name] is not None:
                raise UsageError(f"--{name.replace('_', '-')} is about a NATS server: name one with --nats nats://HOST:PORT")
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
        node=check_node_name(words["node"] or default_node_name()),
        keeps_names=names is None and not has_authority,
        newer_key_wins=has_authority,
        credentials=credentials,
        login=login,
        tls_ca=words["nats_ca"],
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
