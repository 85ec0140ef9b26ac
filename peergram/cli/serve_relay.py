"""The options of `peergram serve` that are about its relay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from peergram.address import Address, format_address, parse_address
from peergram.cli.terminal import say
from peergram.config import STUN_PORT, TURN_ALLOCATIONS_MAX, TURN_BYTES_PER_IDENTITY_PER_S, TURN_BYTES_PER_S, TURN_TLS_PORT
from peergram.errors import UsageError
from peergram.servers.relay_access import RelayAccess
from peergram.servers.relay_quotas import RelayQuotas
from peergram.servers.relay_run import RelayServer, RelaySettings
from peergram.servers.relay_secret import given_relay_secret, own_relay_secret
from peergram.servers.tls_files import ServerTls, default_state_folder

_OPTIONS = (
    click.option("--turn", "turn", type=click.Choice(["on", "off"]), default="on", help="Whether it relays, too [default: on]."),
    click.option("--turn-bind", metavar="ADDRESS:PORT", help="Where it relays, by UDP, TCP and TLS [default: as STUN]."),
    click.option(
        "--turn-address", "turn_addresses", metavar="ADDRESS", multiple=True,
        help="How others reach this machine, if a router in front has another address (repeatable: IPv4, IPv6).",
    ),
    click.option("--turn-user", metavar="NAME", help="A name for the relay that does not end; needs --turn-password."),
    click.option(
        "--turn-password", metavar="TEXT", envvar="PEERGRAM_TURN_PASSWORD", help="Its password [env: PEERGRAM_TURN_PASSWORD].",
    ),
    click.option(
        "--turn-secret-file", metavar="FILE", type=click.Path(path_type=Path),
        help="The secret that passwords which end are made from, in a private file; coturn's static-auth-secret.",
    ),
    click.option(
        "--turn-rate", metavar="KBYTES", type=click.IntRange(0),
        help=f"What it forwards for one identity each second; 0: no limit [default: {TURN_BYTES_PER_IDENTITY_PER_S // 1_000}].",
    ),
    click.option(
        "--turn-rate-total", metavar="KBYTES", type=click.IntRange(0),
        help=f"And for all together [default: {TURN_BYTES_PER_S // 1_000}].",
    ),
    click.option(
        "--turn-allocations", metavar="COUNT", type=click.IntRange(1),
        help=f"How many relayed addresses there may be [default: {TURN_ALLOCATIONS_MAX}].",
    ),
    click.option(
        "--turn-allow", "turn_allowed", metavar="NETWORK", multiple=True,
        help="Forward into this private network, too, such as 192.168.7.0/24 (repeatable).",
    ),
    click.option("--allow-loopback-peers", is_flag=True, help="Forward to programs of this machine, too: for tests."),
)  # fmt: skip


def relay_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds them; the command gets them as `relay_words` for `relay_settings`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def relay_settings(
    words: dict[str, Any], stun_binds: tuple[Address, ...], tls: ServerTls | None, folder: Path | None
) -> RelaySettings | None:
    """What these options ask for; None for no relay. Raises UsageError."""
    user, password, secret_file = words["turn_user"], words["turn_password"], words["turn_secret_file"]
    if (user is None) != (password is None):
        raise UsageError("--turn-user and --turn-password belong together: give both or neither")
    if words["turn"] == "off":
        return None
    relay_binds = stun_binds
    if words["turn_bind"] is not None:
        relay_binds = (bind_of("--turn-bind", words["turn_bind"]),)
    if not relay_binds:
        return None
    try:
        secret = (
            given_relay_secret(secret_file) if secret_file is not None else own_relay_secret(folder or default_state_folder())
        )
    except FileNotFoundError:
        raise UsageError(f"there is no {str(secret_file)!r}: write a line of 16 characters or more into it") from None
    return RelaySettings(
        binds=relay_binds,
        tls_binds=tuple((host, TURN_TLS_PORT) for host, port in relay_binds if tls is not None and port == STUN_PORT),
        tls=tls.context if tls is not None else None,
        access=RelayAccess(user=_bytes(user), password=_bytes(password), secret=secret),
        hosts=tuple(map(_host_of, words["turn_addresses"])),
        allow_loopback=words["allow_loopback_peers"],
        allow_private=words["turn_allowed"],
        quotas=_quotas(words),
    )


def bind_of(option: str, text: str) -> Address:
    """An address of this machine. Raises UsageError that names the option."""
    try:
        return parse_address(text)
    except UsageError as error:
        raise UsageError(f"{option} {error}") from None


def _host_of(text: str) -> str:
    try:
        return parse_address(text, 0)[0]
    except UsageError:
        raise UsageError(f"--turn-address {text!r} is no numeric address: write for example 192.0.2.7 or 2001:db8::7") from None


def _quotas(words: dict[str, Any]) -> RelayQuotas:
    usual = RelayQuotas()
    rate, total, count = words["turn_rate"], words["turn_rate_total"], words["turn_allocations"]
    return RelayQuotas(
        allocations_max=usual.allocations_max if count is None else count,
        identity_bytes_per_s=usual.identity_bytes_per_s if rate is None else rate * 1_000,
        # Whoever lifts the limit of one does not want it to come back as that of a network.
        network_bytes_per_s=0 if rate == 0 else max(usual.network_bytes_per_s, (rate or 0) * 1_000),
        total_bytes_per_s=usual.total_bytes_per_s if total is None else total * 1_000,
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def say_relay(relay: RelayServer) -> None:
    """What it serves."""
    at = " and ".join(format_address(address) for address in relay.addresses)
    by_tls = (
        f", and by TLS at {' and '.join(format_address(each) for each in relay.tls_addresses)}" if relay.tls_addresses else ""
    )
    say(f"Relaying (TURN) by UDP and TCP at {at}{by_tls}.")
    ports = relay.settings.ports
    say(f"It relays through UDP ports {ports.start} to {ports.stop - 1} of {' and '.join(relay.hosts)}; let them in.")
    if relay.settings.access.user is not None:
        say(f"Its name that does not end: {relay.settings.access.user.decode()!r}.")
    if relay.settings.allow_loopback:
        say("It forwards to programs of this machine.", "yellow")
