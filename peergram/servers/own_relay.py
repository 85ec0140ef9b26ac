"""The relay that a server has itself, as the one place of a relay map: so its clients have relays although nobody named any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peergram.routes.ice_servers import StunServer, TurnServer
from peergram.routes.relay_map import PointOfPresence, RelayMap
from peergram.servers.relay_run import RelayServer
from peergram.servers.tls_files import ServerTls

OWN_PLACE: Final = "box"
"""Its code, which no map of several places should need."""


def own_relays(relay: RelayServer, tls: ServerTls | None) -> tuple[RelayMap, dict[str, bytes]]:
    """A map of this relay, which runs, and its secret; an empty one if it has no secret to make tickets with."""
    secret = relay.settings.access.secret
    servers = tuple(_servers(relay, tls))
    if secret is None or not servers:
        return RelayMap(), {}
    return RelayMap((PointOfPresence(OWN_PLACE, "this server", 0.0, 0.0, servers),)), {OWN_PLACE: secret}


def _servers(relay: RelayServer, tls: ServerTls | None) -> Iterator[StunServer | TurnServer]:
    for host in relay.hosts:
        ports = [port for bound, port in relay.addresses if (":" in bound) == (":" in host)]
        for port in ports[:1]:
            yield StunServer(host, port)
            yield TurnServer(host, port, "udp")
            yield TurnServer(host, port, "tcp")
        secure = [port for bound, port in relay.tls_addresses if (":" in bound) == (":" in host)]
        if tls is not None and (secure or ports):
            name = next((name for name in tls.host_names if "*" not in name), host)
            pin = tls.fingerprint.hex() if tls.is_own else None
            yield TurnServer(name, (secure or ports)[0], "tls", tls_fingerprint=pin)
