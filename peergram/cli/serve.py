"""`peergram serve`: a signaling server that also answers STUN and relays, so that peers behind NATs find and reach each other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from peergram.address import Address, format_address
from peergram.cli.serve_fleet import default_node_name, fleet_options, fleet_settings, tell_started
from peergram.cli.serve_map import map_options, relay_desk, watch_relays
from peergram.cli.serve_relay import bind_of, relay_options, relay_settings, say_relay
from peergram.cli.terminal import say, say_over_interrupt
from peergram.config import SERVE_PORT, STUN_PORT
from peergram.crypto.authority import WHOLE_SCOPE
from peergram.crypto.trust import TrustStore
from peergram.drivers.authority_files import load_authorities, open_authority
from peergram.drivers.system import has_family
from peergram.errors import UsageError
from peergram.servers.lifecycle import Apply
from peergram.servers.login_certificates import LoginCertificates
from peergram.servers.names_file import NamesFile, default_names_file
from peergram.servers.operator_log import log_lines
from peergram.servers.relay_secret import given_relay_secret
from peergram.servers.run import ServerSettings, SignalingServer, run_until_stopped
from peergram.servers.tls_files import ServerTls, default_state_folder, given_tls, own_tls
from peergram.signaling.server_url import parse_server_url


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of the server itself, as they were typed."""

    bind: str | None
    stun_bind: str | None
    tls_cert: Path | None
    tls_key: Path | None
    no_tls: bool
    urls: tuple[str, ...]
    folder: Path | None
    names: str | None
    authorities: tuple[Path, ...]
    issue_ca: Path | None
    log_format: str


@click.command()
@click.option("--bind", metavar="ADDRESS:PORT", help=f"Where clients connect [default: port {SERVE_PORT} of every address].")
@click.option(
    "--stun-bind", metavar="ADDRESS:PORT", help=f"Where STUN is answered; 'off' for nowhere [default: port {STUN_PORT}]."
)
@click.option("--tls-cert", metavar="FILE", type=click.Path(path_type=Path), help="A certificate with its chain, PEM.")
@click.option("--tls-key", metavar="FILE", type=click.Path(path_type=Path), help="Its private key, PEM.")
@click.option("--no-tls", is_flag=True, help="Plain ws:// also outside this machine; for a web server in front that has TLS.")
@click.option("--url", "urls", metavar="URL", multiple=True, help="An address clients use for this server (repeatable).")
@click.option(
    "--state", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Where the server keeps its certificate and names."
)
@click.option("--names", metavar="FILE", help="Where it keeps which key each name belongs to; 'off' for nowhere.")
@click.option(
    "--authority",
    "authorities",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Take only those whom this authority has certified: an authority.txt (repeatable).",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Lines for people, or JSON, one object a line. [default: text]",
)
@click.option(
    "--issue-ca", metavar="DIR", type=click.Path(path_type=Path),
    help="Certify everybody for the name he has here, with the authority in DIR.",
)  # fmt: skip
@relay_options
@map_options
@fleet_options
def serve(**words: Any) -> int:
    """Help others find each other.

    Clients connect, prove who they are, and are reachable by name for as long as they stay. Runs until Ctrl-C.

    Connections are encrypted with a certificate that the server makes for itself at its first start; its fingerprint is part of
    the address that clients use. Give --tls-cert and --tls-key to use one that browsers would trust. On 127.0.0.1 and ::1 nothing
    is encrypted, since nobody can listen in.

    It also relays (TURN) for those who cannot reach each other directly. Its passwords are made from a secret that it keeps, and
    it does not forward into private networks or to this machine.

    A name belongs to the key that uses it first: for a month after its last use once it was in use for ten minutes, else for an
    hour, and also after a restart.

    Several of them that share a NATS cluster (--nats) are one fleet: clients may use any of them. SIGTERM lets clients go
    elsewhere before it stops, a second one or Ctrl-C does not wait; SIGHUP reads again what files say: certificates,
    authorities, the relay map and secrets.

    \b
    Examples:
      peergram serve
      peergram serve --bind 192.0.2.7:443 --tls-cert chain.pem --tls-key key.pem
    """
    options = ServeOptions(**{field.name: words.pop(field.name) for field in fields(ServeOptions)})
    settings = _settings(options, words)
    log_lines(options.log_format, settings.fleet.node if settings.fleet is not None else words["node"] or default_node_name())
    clients = asyncio.run(run_until_stopped(settings, partial(_started, options, words)))
    if options.log_format == "text":
        _say_stopped(clients)
    return 0


def _settings(options: ServeOptions, words: dict[str, Any]) -> ServerSettings:
    """`words` are the options of relay, map and fleet, each read where it belongs. Raises UsageError."""
    binds = _binds("--bind", options.bind, SERVE_PORT)
    tls = _tls(binds, options)
    stun_binds = () if options.stun_bind == "off" else _binds("--stun-bind", options.stun_bind, STUN_PORT, of=binds)
    relay = relay_settings(words, stun_binds, tls, options.folder)
    fleet = fleet_settings(words, options.names, has_authority=bool(options.authorities))
    return ServerSettings(
        binds=binds,
        # A relay answers STUN, too.
        stun_binds=tuple(each for each in stun_binds if relay is None or each not in relay.binds),
        relay=relay,
        tls=tls,
        urls=tuple(parse_server_url(url) for url in options.urls),
        names=_names(options.names, options.folder) if fleet is None else None,
        certificates=_certificates(options.authorities, options.issue_ca),
        relays=relay_desk(words, is_in_fleet=fleet is not None),
        fleet=fleet,
    )


def _started(options: ServeOptions, words: dict[str, Any], server: SignalingServer) -> None:
    reloaders = server.reloaders
    if options.tls_cert is not None and options.tls_key is not None:
        reloaders.add("certificate", partial(_read_tls, server, options.tls_cert, options.tls_key))
    if options.authorities:
        reloaders.add("authorities", partial(_read_certificates, server, options.authorities, options.issue_ca))
    watch_relays(server, words["relay_map"], words["relay_secrets"])
    if server.relay is not None and (secret_file := words["turn_secret_file"]) is not None:
        reloaders.add("relay secret", partial(_read_relay_secret, server, secret_file))
    (_say_started if options.log_format == "text" else tell_started)(server)


def _say_stopped(clients: int) -> None:
    told = (
        f"; {clients} {'client was' if clients == 1 else 'clients were'} told, and will try this server again" if clients else ""
    )
    say_over_interrupt(f"Stopped{told}.")


def _binds(option: str, text: str | None, port: int, of: tuple[Address, ...] = ()) -> tuple[Address, ...]:
    if text is not None:
        return (bind_of(option, f"0.0.0.0:{text}" if text.isascii() and text.isdigit() else text),)
    if of:
        return tuple((host, port) for host, _ in of)
    return (("0.0.0.0", port), ("::", port)) if has_family(6) else (("0.0.0.0", port),)


def _tls(binds: tuple[Address, ...], options: ServeOptions) -> ServerTls | None:
    certificate, key, folder = options.tls_cert, options.tls_key, options.folder
    if (certificate is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key belong together: give both or neither")
    if certificate is not None and key is not None:
        if options.no_tls:
            raise UsageError("--no-tls contradicts --tls-cert: give one of them")
        return given_tls(certificate, key)
    if options.no_tls or all(host in ("::1", "127.0.0.1") for host, _ in binds):
        return None
    return own_tls(folder if folder is not None else default_state_folder())


def _names(text: str | None, folder: Path | None) -> NamesFile | None:
    path = default_names_file(folder) if text is None else Path(text)
    return NamesFile(path) if path is not None and text != "off" else None


def _certificates(authorities: tuple[Path, ...], issue_ca: Path | None) -> LoginCertificates:
    issuer = open_authority(issue_ca) if issue_ca is not None else None
    issued_by = TrustStore()
    if issuer is not None:
        issuer.public.put_into(issued_by)
    return LoginCertificates(
        authorities=load_authorities(authorities) if authorities else None,
        issuer_key=issuer.key if issuer is not None else None,
        issuer_scope=issuer.scope if issuer is not None else WHOLE_SCOPE,
        issuer_store=issued_by,
        wall_s=lambda: int(time.time()),
    )


def _read_tls(server: SignalingServer, certificate: Path, key: Path) -> Apply:
    tls = given_tls(certificate, key)

    def apply() -> None:
        server.settings = replace(server.settings, tls=tls)
        if server.relay is not None:
            server.relay.replace_tls(tls.context)

    return apply


def _read_certificates(server: SignalingServer, authorities: tuple[Path, ...], issue_ca: Path | None) -> Apply:
    return partial(server.core.replace_certificates, _certificates(authorities, issue_ca))


def _read_relay_secret(server: SignalingServer, file: Path) -> Apply:
    try:
        return partial(server.replace_relay_secret, given_relay_secret(file))
    except FileNotFoundError:
        raise UsageError(f"there is no {str(file)!r} any more") from None


def _say_started(server: SignalingServer) -> None:
    tls = server.settings.tls
    listening = " and ".join(format_address(address) for address in server.addresses)
    say(f"Serving at {listening} (Ctrl-C ends).")
    urls = server.urls()
    if urls:
        say("Clients use this address:" if len(urls) == 1 else "Clients use one of these addresses:")
        for url in urls:
            say(f"  {url}", "green")
    if tls is not None and tls.is_own and not server.settings.urls:
        say("The part behind the # proves this server; a public address or name may stand in place of the one shown.")
    if tls is None and any(not url.is_loopback for url in urls):
        say("Nothing is encrypted: whoever is on the way sees who calls whom.", "yellow")
    if server.stun_addresses:
        say(f"STUN is answered at UDP {' and '.join(map(format_address, server.stun_addresses))}.")
    if server.relay is not None:
        say_relay(server.relay)
    names = server.settings.names
    if names is not None:
        count = len(names.names)
        say(f"Who has which name is kept in {str(names.path)!r}{f': {count} so far' if count else ''}.")
        for complaint in names.complaints:
            say(complaint, "yellow")
    elif server.fleet is not None and server.fleet.settings.keeps_names:
        say("Who has which name is kept by the fleet, in NATS JetStream.")
    elif server.fleet is not None and server.fleet.settings.newer_key_wins:
        say("Who has which name the authority says.")
    else:
        say("Who has which name is forgotten when this server stops.", "yellow")
    if server.fleet is not None:
        say(f"Node {server.fleet.settings.node!r} of the fleet at {server.fleet.where}.")
        if not server.fleet.is_bus_private:
            say("What nodes say to each other is not encrypted: whoever is on the way can read and forge signals.", "yellow")
    certificates = server.settings.certificates
    if certificates is not None and certificates.are_demanded:
        say("Only those whom the authority has certified are let in.")
    if certificates is not None and certificates.issues:
        say("Everybody gets a certificate for the name he has here, for an hour at a time.")
    if server.names_own_relay:
        say("Clients get this relay, and passwords for it, by themselves.")
    else:
        if server.desk.map_text:
            say(server.desk.summary)
        if server.relay is not None:
            say("Clients hear of this server's own relay only if it is on the relay map; --turn off leaves it out.")
    host, port = server.addresses[0]
    local = "127.0.0.1" if host == "0.0.0.0" else host
    scheme = "http" if tls is None else "https"
    say(f"Health and counters: {scheme}://{format_address((local, port))}/healthz and /metrics.")
