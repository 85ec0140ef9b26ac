"""How a command reaches others: the options that all of them share, and what they mean together.

Names are found by signaling, `lan` unless told otherwise. The direct way, `--listen` on one side and `--to ip:ADDRESS:PORT` on
the other, needs none, and then none is started: who names a port does not expect to be announced on the network as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

import click

from peergram.address import Address, parse_address
from peergram.cli.terminal import printable, say_error
from peergram.config import Config
from peergram.crypto.policy import POLICIES, Policy
from peergram.errors import UsageError
from peergram.identity import Identity, IdentityKind
from peergram.messages import Messages

ANSWER_TIMEOUT_S = 60.0
"""How long a person may take to let somebody in."""

_SIGNALING_HELP = (
    "How names are found: lan (this machine and its networks, no server), wss://HOST:PORT/ of a `peergram serve` (several of one"
    " fleet with commas), line://HOST:PORT,"
    " or none. [default: lan; none with --listen or an address to call]"
)
_STUN_HELP = "A server that tells us our address behind a router; for calls across networks. Repeatable."
_TURN_HELP = "A server that relays where no direct way exists; ?transport=tcp for one that is reached by TCP. Repeatable."
_TRUST_HELP = (
    "Whom to let in: pinned (a name keeps the key it was first met with), ca (a certificate of --authority), open (anyone,"
    " unproven), key (who is his key; always on); several with commas. [default: pinned; ca with --authority]"
)
_KEY_HELP = "Our private key, rather than the one in your folder (see `peergram id`)."
_AUTHORITY_HELP = "Whose certificates are good: the file that `peergram ca init` calls public. Repeatable."
_RELAY_MAP_HELP = "The relays of a network (docs/relay_network.md); a `peergram serve` that has some tells them by itself."
_RELAY_TICKETS_HELP = "What opens them: a file of lines 'CODE USER PASSWORD', or one user and password for all."
_HIDE_HELP = "Go through relays only: nobody learns our address, and nothing is sent to theirs. Needs a server for --signaling."
_SERVER_SCHEMES = ("stun", "stuns", "turn", "turns")
_SIGNALING_SCHEMES = ("ws://", "wss://", "line://")
_IP_EXAMPLE = "ip:192.0.2.1:27015"


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """The options as they were typed."""

    signaling: str | None
    stun: tuple[str, ...]
    turn: tuple[str, ...]
    trust: str | None
    key: str | None
    certificate: str | None
    authorities: tuple[str, ...]
    relay_map: str | None
    relay_tickets: str | None
    hide_ip: bool

    def open(self, who: str | None, peer: Identity | None, *, listen: Address | None = None, config: Config) -> Messages:
        """The network as `who`, to call `peer` if there is one. Raises UsageError for what cannot work together."""
        signaling = self._signaling_for(peer, listen)
        if self.hide_ip and (signaling in (None, "lan") or listen is not None):
            raise UsageError("--hide-ip needs a server, which tells nobody where we are: --signaling wss://HOST:PORT/")
        if (self.relay_map or self.relay_tickets) and signaling is None:
            raise UsageError("--relay-map helps to find somebody by name, which takes signaling: give --signaling")
        stun, turn = _servers("stun", self.stun), _servers("turn", self.turn)
        if signaling is None:
            if stun or turn:
                name = "--stun" if stun else "--turn"
                raise UsageError(
                    f"{name} helps to find somebody by name, which takes signaling: give --signaling lan or --signaling wss://HOST:PORT/"
                )
            if peer is not None and peer.ip_address is None:
                raise UsageError(
                    f"{peer.printable!r} is a name, and without signaling nobody knows where it is: leave out --signaling none,"
                    f" or call an address as {_IP_EXAMPLE}"
                )
        if peer is not None and who is not None and peer == Identity.of(who):
            raise UsageError(f"{peer.printable!r} is you: call somebody else, or be somebody else")
        net = Messages(
            who,
            listen=listen,
            trust=self._policies(),
            key=self.key,
            certificate=self.certificate,
            authorities=self.authorities,
            signaling=signaling,
            stun=stun,
            turn=turn,
            relay_map=self.relay_map,
            relay_tickets=self._relay_tickets(),
            hide_ip=self.hide_ip,
            config=config,
        )
        net.on_peer_refused = lambda event: say_error(f"{printable(event.text)}.")
        return net

    def _relay_tickets(self) -> str | tuple[str, str] | None:
        """A file, or one login for all places."""
        if self.relay_tickets is None or ":" not in self.relay_tickets:
            return self.relay_tickets
        user, _, password = self.relay_tickets.partition(":")
        return user, password

    def _policies(self) -> list[Policy]:
        """Without `--trust`, naming an authority is a wish to see its certificates."""
        text = self.trust or ("ca" if self.authorities else "pinned")
        policies = [word.strip() for word in text.split(",")]
        if unknown := [word for word in policies if word not in POLICIES]:
            raise UsageError(f"--trust: use one or several of {', '.join(POLICIES)}, with commas, not {printable(unknown[0])!r}")
        if "ca" in policies and not self.authorities:
            raise UsageError("--trust ca needs --authority FILE: whose certificates are good")
        return policies  # type: ignore[return-value]

    def _signaling_for(self, peer: Identity | None, listen: Address | None) -> str | None:
        if self.signaling is None:
            is_direct = listen is not None if peer is None else peer.ip_address is not None
            return None if is_direct else "lan"
        if self.signaling == "none":
            return None
        if self.signaling != "lan" and not self.signaling.startswith(_SIGNALING_SCHEMES):
            raise UsageError(
                f"--signaling {printable(self.signaling)!r}: give lan, none, or a server as wss://HOST:PORT/ or line://HOST:PORT"
            )
        return self.signaling


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, as one argument `network`."""

    @click.option("--signaling", metavar="HOW", help=_SIGNALING_HELP)
    @click.option("--stun", multiple=True, metavar="HOST:PORT", help=_STUN_HELP)
    @click.option("--turn", multiple=True, metavar="USER:PASSWORD@HOST:PORT", help=_TURN_HELP)
    @click.option("--trust", metavar="HOW", help=_TRUST_HELP)
    @click.option("--key", metavar="FILE", help=_KEY_HELP)
    @click.option("--certificate", metavar="FILE", help="Our certificate, from `peergram cert issue`.")
    @click.option("--authority", "authorities", multiple=True, metavar="FILE", help=_AUTHORITY_HELP)
    @click.option("--relay-map", metavar="FILE", help=_RELAY_MAP_HELP)
    @click.option("--relay-tickets", metavar="FILE|USER:PASSWORD", help=_RELAY_TICKETS_HELP)
    @click.option("--hide-ip", is_flag=True, help=_HIDE_HELP)
    @wraps(command)
    def with_network(**options: Any) -> Any:
        own = {field.name: options.pop(field.name) for field in fields(NetworkOptions)}
        return command(**options, network=NetworkOptions(**own))

    return with_network


def _servers(kind: str, texts: tuple[str, ...]) -> list[str]:
    """With their scheme, which the option makes superfluous to type."""
    servers = []
    for text in texts:
        scheme = text.partition(":")[0].lower()
        if scheme not in _SERVER_SCHEMES:
            servers.append(f"{kind}:{text}")
        elif scheme.removesuffix("s") == kind:
            servers.append(text)
        else:
            raise UsageError(
                f"--{kind} was given the address of another kind of server: that is for --{scheme.removesuffix('s')}"
            )
    return servers


def peer_identity(text: str) -> Identity:
    """Whom a person wants to call: a name, a full identity, or `ip:` with a port. Raises UsageError."""
    shown = printable(text)
    if _is_address(text):
        raise UsageError(f"{shown!r} cannot be called: did you mean ip:{shown}?")
    who = Identity.of(text)
    address = who.ip_address
    if address is not None and not address[1]:
        raise UsageError(f"{shown!r} has no port: write it as {_IP_EXAMPLE}")
    if who.kind == IdentityKind.UNKNOWN_TYPE and text.partition(":")[2].isdigit():
        raise UsageError(f"{shown!r} cannot be called: write an address in numbers, as {_IP_EXAMPLE}, or a name such as bob")
    return who


def listen_address(text: str) -> Address:
    """`27015` means every IPv4 address of this machine. Raises UsageError."""
    if text.isascii() and text.isdigit():
        text = f"0.0.0.0:{text}"
    return parse_address(text)


def _is_address(text: str) -> bool:
    try:
        parse_address(text, 1)
    except UsageError:
        return False
    return True
