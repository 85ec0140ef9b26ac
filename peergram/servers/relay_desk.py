"""The relays that a signaling server tells its clients of, and the tickets that it makes for them.

It holds the secret of each point of presence, whose relays hold it, too: a ticket made with it opens those and no others (R2).
For a place without a secret, such as one whose relays ask for nothing or for a password known otherwise, there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from peergram.config import RELAY_CREDENTIAL_BYTES_MAX, RELAY_TICKET_S
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.routes.relay_map import RelayMap, format_relay_map
from peergram.servers.relay_access import password_for, temporary_name
from peergram.wire.relay_news import Ticket, Tickets

SECRET_BYTES_MIN: Final = 8
"""Shorter ones are guessed from a single ticket."""


class RelayDesk:
    """The map and the secrets as they are now; `replace` both at once, then tell `SignalingCore.handle_relays_changed`."""

    def __init__(
        self,
        relays: RelayMap,
        secrets: Mapping[str, bytes],
        *,
        wall_s: Callable[[], int],
        lifetime_s: int = RELAY_TICKET_S,
    ) -> None:
        """`secrets` by code of the place; `wall_s` tells the Unix time. Raises UsageError as `replace` does."""
        self._wall_s = wall_s
        self._lifetime_s = lifetime_s
        self.replace(relays, secrets)

    def replace(self, relays: RelayMap, secrets: Mapping[str, bytes]) -> None:
        """Others from now on. Raises UsageError for a secret of a place that is not on the map; then nothing changes."""
        codes = {pop.code for pop in relays.pops}
        for code, secret in secrets.items():
            if code not in codes:
                raise UsageError(f"relay secrets: there is no place {code!r} on the relay map")
            if len(secret) < SECRET_BYTES_MIN:
                raise UsageError(f"relay secrets: that of {code!r} has less than {SECRET_BYTES_MIN} characters")
        self.map_text = format_relay_map(relays) if relays.pops else b""
        """As clients get it; empty if there are no relays."""
        self._secrets = dict(secrets)
        self._places = len(relays.pops)

    def replace_map(self, relays: RelayMap, secrets: Mapping[str, bytes]) -> None:
        """Another map, such as one that all nodes of a fleet share; of `secrets`, those of its places count."""
        self.replace(relays, {pop.code: secrets[pop.code] for pop in relays.pops if pop.code in secrets})

    @property
    def summary(self) -> str:
        """What people are told of it."""
        places = f"{self._places} place{'' if self._places == 1 else 's'} with relays"
        tickets = len(self._secrets) or "none of them (--relay-secrets FILE gives some)"
        return f"Clients are told of {places}, and get tickets for {tickets}."

    def mint(self, identity: Identity) -> Tickets:
        """One ticket for each place that has a secret, for whom the server has just verified, or knows."""
        username = temporary_name(identity.text, self._wall_s() + self._lifetime_s)
        if len(username) > RELAY_CREDENTIAL_BYTES_MAX:
            return Tickets((), self._lifetime_s)
        tickets = [
            Ticket(code, username.decode(), password_for(secret, username).decode()) for code, secret in self._secrets.items()
        ]
        return Tickets(tuple(tickets), self._lifetime_s)
