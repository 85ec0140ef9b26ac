"""The options of `peergram serve` that are about the relay map, and what the server does with the files they name."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from peergram.drivers.relay_files import load_relay_map
from peergram.errors import UsageError
from peergram.routes.relay_map import parse_relay_map
from peergram.servers.lifecycle import Apply
from peergram.servers.relay_desk import RelayDesk
from peergram.servers.relay_files import load_relay_secrets
from peergram.servers.run import SignalingServer

_NO_PLACES = b'{"version": 1, "pops": []}'


def map_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds them; the command gets `relay_map` and `relay_secrets`."""
    command = click.option(
        "--relay-secrets", metavar="FILE", type=click.Path(path_type=Path),
        help="Lines 'CODE SECRET' of places on the map: clients get tickets for them. For your eyes only (chmod 600).",
    )(command)  # fmt: skip
    return click.option(
        "--relay-map", metavar="FILE", type=click.Path(path_type=Path),
        help="The relays that clients are told of (docs/relay_network.md).",
    )(command)  # fmt: skip


def relay_desk(words: dict[str, Any], *, is_in_fleet: bool) -> RelayDesk | None:
    """What the files say; None without a map. Raises UsageError."""
    relay_map, relay_secrets = words["relay_map"], words["relay_secrets"]
    if relay_map is None:
        if relay_secrets is not None and not is_in_fleet:
            raise UsageError("--relay-secrets needs --relay-map FILE: whose secrets they are")
        return None
    return RelayDesk(load_relay_map(relay_map), _secrets(relay_secrets), wall_s=lambda: int(time.time()))


def watch_relays(server: SignalingServer, relay_map: Path | None, relay_secrets: Path | None) -> None:
    """Read them again when the operator wants it, and share the map with the fleet."""
    if relay_map is not None or relay_secrets is not None:
        server.reloaders.add("relay map", partial(read_relays, server, relay_map, relay_secrets))
    share_relays(server, relay_map, relay_secrets)


def share_relays(server: SignalingServer, relay_map: Path | None, relay_secrets: Path | None) -> None:
    """Nodes of a fleet tell each other of the map, and the file that was written last counts; secrets stay where they are."""
    fleet = server.fleet
    if fleet is None:
        return

    def take(text: bytes) -> None:
        secrets = _secrets(relay_secrets)
        server.desk.replace_map(parse_relay_map(text), secrets)
        server.handle_relays_changed()

    if relay_map is not None:
        # Before anything is taken from others, which may be older and would stand in the place of ours.
        fleet.share(server.desk.map_text, relay_map.stat().st_mtime_ns)
    fleet.watch_document(take)


def read_relays(server: SignalingServer, relay_map: Path | None, relay_secrets: Path | None) -> Apply:
    """The map and the secrets of its places, from their files; a newer map of another node stays."""
    relays = load_relay_map(relay_map) if relay_map is not None else parse_relay_map(server.desk.map_text or _NO_PLACES)
    secrets = _secrets(relay_secrets)
    if relay_map is not None:
        # Whatever is wrong with them together shows here, before anything is changed.
        RelayDesk(relays, secrets, wall_s=lambda: 0)

    def apply() -> None:
        server.desk.replace_map(relays, secrets)
        server.handle_relays_changed()
        if server.fleet is not None:
            if relay_map is not None:
                server.fleet.share(server.desk.map_text, relay_map.stat().st_mtime_ns)
            else:
                server.fleet.take_document_again()

    return apply


def _secrets(file: Path | None) -> dict[str, bytes]:
    return {} if file is None else load_relay_secrets(file)
