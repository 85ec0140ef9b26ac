"""Which way packets to somebody take, in words for people."""

from __future__ import annotations

from peergram.events import ConnectionInfo, ConnectionState

WORDS = {"local": "over the local network", "direct": "directly", "relayed": "through a relay"}
_BEST_FIRST = tuple(WORDS)
GOING_ON = (ConnectionState.CONNECTED, ConnectionState.FINDING_ROUTE)
"""A session that was up and lost its way looks for another one for a while; what is sent meanwhile waits."""


class PathNews:
    """Remembers what people were told of the way to one peer; has a sentence whenever there is more to tell."""

    def __init__(self) -> None:
        self._told: str | None = None
        """The kind of way; empty for none."""
        self._place = ""

    @property
    def is_lost(self) -> bool:
        """Whether people were told last that there is none."""
        return self._told == ""

    def sentence(self, name: str, connection: ConnectionInfo | None) -> str | None:
        """What to say of the way to him now; None if that is known already, there never was one, or the session is over."""
        before = self._told
        if connection is None or connection.state not in GOING_ON:
            return None
        route, place = connection.route, connection.pop_relay
        if route == (before or "") and place == self._place:
            return None
        self._told, self._place = route, place
        if not route:
            return f"The way to {name} is lost; looking for another one …"
        words = WORDS.get(route, route) + (f" at {place}" if place else "")
        if before is None:
            return f"Talking to {name} {words}."
        if not before:
            return f"Talking to {name} again, {words}."
        better = route in _BEST_FIRST and before in _BEST_FIRST and _BEST_FIRST.index(route) < _BEST_FIRST.index(before)
        return f"A better way to {name} was found: now {words}." if better else f"The way to {name} has changed: now {words}."


def describe_path(connection: ConnectionInfo) -> str:
    """For one line of a list: `local 192.168.1.7:40213`, `relayed at fra`; a peer that was dialed by address is `direct`."""
    route = connection.route or ("direct" if connection.address else "no way")
    place = f"at {connection.pop_relay}" if connection.pop_relay else ""
    return f"{route} {connection.address or place}".rstrip()
