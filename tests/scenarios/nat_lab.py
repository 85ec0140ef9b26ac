"""Two peers behind NATs of chosen kinds, with STUN, TURN and signaling on hosts of their own; and what may befall them.

    home1 (kind one) -- alice         stun (two addresses), turn, turn2, signal: public hosts
    home2 (kind two) -- bob           cafe: a network without hosts, to roam to

A peer is ours or the reference, see SIDES, the one place that says which pairings the tests run. Relays are coturn
(Debian: coturn) or ours, with UDP and TCP on port 3478, TLS on 5349, and one user of the long-term kind; TLS has a self-made
certificate that `NatLab.certificate` names.
"""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.interop.child import ROOT
from tests.interop.gns import GnsError, library_path
from tests.interop.party import PartyOptions, PartyProcess, TurnServer, now_us
from tests.lab import open_lab

from .lab_stun import PORT as STUN_PORT

Side = Literal["ours", "reference", "hostile"]
Kind = Literal["none", "full-cone", "address-restricted", "port-restricted", "symmetric", "udp-blocked"]
Maker = Literal["coturn", "ours"]
"""Whose relays."""
Route = Literal["local", "direct", "relay", "fails"]
Family = Literal[4, 6]

SIDES: list[tuple[Side, Side]] = [("ours", "ours"), ("ours", "reference"), ("reference", "ours"), ("reference", "reference")]
"""Who alice is, who opens, and who bob is."""

OURS: tuple[Side, Side] = ("ours", "ours")

KINDS: tuple[Kind, ...] = ("none", "full-cone", "address-restricted", "port-restricted", "symmetric", "udp-blocked")
UNPUNCHABLE: set[frozenset[Kind]] = {frozenset({"port-restricted", "symmetric"}), frozenset({"symmetric"})}
"""No direct path exists: a symmetric NAT shows every peer a port that the other's NAT does not expect."""

MODULES: dict[Side, str] = {
    "ours": "tests.scenarios.p2p_peer",
    "reference": "tests.interop.gns_party",
    "hostile": "tests.scenarios.hostile_peer",
}
RELAYS = ("turn", "turn2")
SERVICES = "stun@inet*2 turn@inet turn2@inet signal@inet"
TURN_PORT = 3_478
TURN_TLS_PORT = 5_349
SIGNAL_PORT = 10_000
TURN_USER = "peer"
TURN_PASSWORD = "secret"
TURN_REALM = "lab"

_SETTLE_S = 1.0
_READY_S = 10.0
_COUNTING_S = 0.3


def route_expected(kinds: tuple[Kind, Kind], sides: tuple[Side, Side]) -> Route:
    """How alice and bob come to talk.

    Where UDP does not pass, the relay must be reached by TCP or TLS, which the reference cannot.
    """
    if any(kind == "udp-blocked" and side == "reference" for kind, side in zip(kinds, sides, strict=True)):
        return "fails"
    if "udp-blocked" in kinds or frozenset(kinds) in UNPUNCHABLE:
        return "relay"
    return "direct"


@dataclass(frozen=True, slots=True)
class Meeting:
    """How two peers met."""

    first_us: int
    """From alice's first send to its arrival."""
    answer_us: int
    """From bob's answer to its arrival."""
    routes: tuple[str, str]
    """At the end, as alice and bob say."""
    settled_us: int
    """From alice's first send to the last change of either route."""

    @property
    def route(self) -> Route:
        """`relay` if one says so: who was reached through the other's relay may not know."""
        if "relay" in self.routes:
            return "relay"
        return "local" if set(self.routes) == {"local"} else "direct"

    def __str__(self) -> str:
        first, answer, settled = (us / 1_000_000 for us in (self.first_us, self.answer_us, self.settled_us))
        return f"first message {first:.3f} s, answer {answer:.3f} s, {'/'.join(self.routes)} since {settled:.3f} s"


class NatLab:
    """A running lab with its services; peers are started on its hosts and end with it."""

    def __init__(self, lab: Any, stack: ExitStack, folder: Path, *, v6: bool, relay_of: Maker = "coturn") -> None:
        """`v6`: the services have IPv6 addresses too."""
        self.lab = lab
        self._relay_of = relay_of
        self.certificate = folder / "relay.pem"
        self._stack = stack
        self._folder = folder
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._v6 = v6
        self._serve("stun", "tests.scenarios.lab_stun", *self._addresses("stun"), lab.addr("stun", index=1))
        self.start_signaling()

    # --- services ---

    def start_signaling(self) -> None:
        """Also anew, after `kill`."""
        self._serve("signal", "tests.interop.line_signals", "" if self._v6 else self.lab.addr("signal"), str(SIGNAL_PORT))

    def start_relays(self, count: int) -> None:
        """One on `turn`, and if two are wanted one on `turn2`."""
        if not self.certificate.exists():
            write_certificate(self.certificate)
        for host in RELAYS[:count]:
            self.start_relay(host)

    def kill(self, service: str) -> None:
        """kill -9 of `signal`, `stun`, `turn` or `turn2`."""
        process = self._services[service]
        process.kill()
        process.wait()

    def relay_in_use(self) -> str:
        """The relay host that datagrams pass through right now."""
        before = {host: self._datagrams(host) for host in self._services if host in RELAYS}
        time.sleep(_COUNTING_S)
        return max(before, key=lambda host: self._datagrams(host) - before[host])

    def _datagrams(self, host: str) -> int:
        rows = [line.split()[1:] for line in self._snmp(host).splitlines() if line.startswith("Udp:")]
        return int(rows[1][rows[0].index("InDatagrams")])

    def _snmp(self, host: str) -> str:
        text: str = self.lab.run(host, ["cat", "/proc/net/snmp"], capture_output=True, text=True, check=True).stdout
        return text

    def _serve(self, host: str, module: str, *words: str) -> None:
        process = self._start(host, [sys.executable, "-m", module, *words], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n", f"{module} does not start"

    def serve(self, host: str, command: list[str], begins: str) -> str:
        """Run a program on a host; the first word in what it says that begins so."""
        process = self._start(host, command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for line in process.stdout:
            if found := [word for word in line.decode().split() if word.startswith(begins)]:
                return found[0]
        raise AssertionError(f"{command} ended without a word that begins with {begins!r}")

    def _addresses(self, host: str) -> list[str]:
        return [self.lab.addr(host, family) for family in ((4, 6) if self._v6 else (4,))]

    def start_relay(self, host: str) -> None:
        """Also anew, after `kill`."""
        if self._relay_of == "ours":
            self._start_our_relay(host)
            return
        if not (program := shutil.which("turnserver")):
            pytest.skip("needs coturn (Debian: coturn)")
        words = {
            "listening-port": TURN_PORT,
            "tls-listening-port": TURN_TLS_PORT,
            "cert": self.certificate,
            "pkey": self.certificate,
            "user": f"{TURN_USER}:{TURN_PASSWORD}",
            "realm": TURN_REALM,
            "userdb": self._folder / f"{host}.db",
            "pidfile": self._folder / f"{host}.pid",
        }
        options = ["-n", "--no-cli", "--no-stdout-log", "--simple-log", "--lt-cred-mech", "--log-file", "/dev/null"]
        options += [f"--{role}-ip={address}" for role in ("listening", "relay") for address in self._addresses(host)]
        errors = self._folder / f"{host}.err"
        with errors.open("w") as stream:
            self._start(host, [program, *options, *(f"--{name}={value}" for name, value in words.items())], stderr=stream)
        deadline_s = time.monotonic() + _READY_S
        while not self._listens(host):
            assert time.monotonic() < deadline_s, f"the relay on {host} does not start: {errors.read_text()}"
            time.sleep(0.02)

    def _start_our_relay(self, host: str) -> None:
        words = [f"--user={TURN_USER}", f"--password={TURN_PASSWORD}", f"--realm={TURN_REALM}"]
        words += [f"--certificate={self.certificate}", f"--key={self.certificate}"]
        for address in self._addresses(host):
            shown = f"[{address}]" if ":" in address else address
            words += [f"--bind={shown}:{TURN_PORT}", f"--tls-bind={shown}:{TURN_TLS_PORT}"]
        self._serve(host, "tests.servers.relay_process", *words)

    def _listens(self, host: str) -> bool:
        """TLS comes last."""
        files = ["/proc/net/tcp", "/proc/net/tcp6"] if self._v6 else ["/proc/net/tcp"]
        return all(
            f":{TURN_TLS_PORT:04X} {'0' * digits}:0000 0A"
            in self.lab.run(host, ["cat", file], capture_output=True, text=True, check=True).stdout
            for file, digits in zip(files, (8, 32), strict=False)
        )

    def _start(self, host: str, command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self.lab.popen(
            host, command, cwd=ROOT, stdin=subprocess.DEVNULL, **{"stdout": subprocess.DEVNULL, **how}
        )
        self._services[host] = process
        self._stack.callback(_end, process)
        return process

    # --- peers ---

    def peer(self, side: Side, host: str, name: str, *, families: tuple[Family, ...] = (4,), **options: Any) -> PartyProcess:
        """A peer on a host. It is told of every service by an address of its first family, and of STUN servers of all its
        families; `options` are fields of `PartyOptions`.
        """

        def address(service: str, family: Family = families[0], index: int = 0) -> str:
            found = self.lab.addr(service, family, index)
            return f"[{found}]" if family == 6 else str(found)

        stuns = [address("stun", family, index) for family in families for index in range(2 if family == 4 else 1)]
        told = PartyOptions(
            identity=f"str:{name}",
            signaling=f"{address('signal')}:{SIGNAL_PORT}",
            stun=[f"{stun}:{STUN_PORT}" for stun in stuns],
            turn=[
                TurnServer(
                    host=address(relay),
                    port=port,
                    transport=transport,
                    user=TURN_USER,
                    password=TURN_PASSWORD,
                    fingerprint=self._fingerprint() if transport == "tls" else "",
                )
                for relay in RELAYS
                if relay in self._services
                for transport, port in (("udp", TURN_PORT), ("tcp", TURN_PORT), ("tls", TURN_TLS_PORT))
            ],
        )
        peer = PartyProcess(MODULES[side], replace(told, **options), lambda words, **how: self.lab.popen(host, words, **how))
        self._stack.callback(peer.stop)
        return peer

    def _fingerprint(self) -> str:
        """Of the relays' certificate."""
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return certificate.fingerprint(hashes.SHA256()).hex()

    def pair(self, sides: tuple[Side, Side], **options: Any) -> tuple[PartyProcess, PartyProcess]:
        """Alice and bob, of these sides."""
        return self.peer(sides[0], "alice", "alice", **options), self.peer(sides[1], "bob", "bob", **options)

    # --- faults ---

    def silence(self, link: str, seconds: float) -> None:
        """Every packet of a link is swallowed for a while, and nobody is told."""
        self.lab.blackhole(link)
        time.sleep(seconds)
        self.lab.restore(link)

    def rebind(self, *, new_ip: bool = False) -> None:
        """Alice's router restarts: new outside ports, and maybe a new address.

        Nothing may pass meanwhile: one packet of an old flow between the new rules and the end of the old flows would teach the
        router the old port again.
        """
        for link in ("alice", "home1"):
            self.lab.blackhole(link)
        self.lab.rebind("home1", new_ip=new_ip)
        for link in ("home1", "alice"):
            self.lab.restore(link)


@contextmanager
def nat_lab(one: Kind, two: Kind, *, relays: int = 1, relay_of: Maker = "coturn") -> Iterator[NatLab]:
    """The lab of the module's picture with `relays` of the two relays; skips the test where something is missing."""
    with world(f"alice@home1:{one} bob@home2:{two} cafe:port-restricted", relays=relays, relay_of=relay_of) as running:
        yield running


@contextmanager
def world(words: str, *, relays: int = 1, v6: bool = False, relay_of: Maker = "coturn") -> Iterator[NatLab]:
    """The same services with other hosts and routers, see `netlab`."""
    with open_lab(f"{words} {SERVICES}", "n", v6=v6) as lab, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running = NatLab(lab, stack, Path(folder), v6=v6, relay_of=relay_of)
        running.start_relays(relays)
        yield running


def marks(sides: tuple[Side, Side]) -> list[pytest.MarkDecorator]:
    """Of a test with these sides."""
    return [pytest.mark.interop] if "reference" in sides else []


def need(sides: tuple[Side, Side]) -> None:
    """Skip the test where a side cannot be had."""
    if "reference" in sides:
        try:
            library_path()
        except GnsError as error:
            pytest.skip(f"no reference to test against: {error}")


def meet(alice: PartyProcess, bob: PartyProcess, timeout_s: float = 15.0) -> Meeting:
    """Alice sends, bob answers, and both are watched until their routes have been the same for a while."""
    began_us = alice.send(bob.identity, b"hello")
    sender, data, first_at_us = bob.take(timeout_s=timeout_s)
    assert (sender, data) == (alice.identity, b"hello")
    answered_us = bob.send(alice.identity, b"welcome")
    sender, data, answer_at_us = alice.take(timeout_s=timeout_s)
    assert (sender, data) == (bob.identity, b"welcome")

    def last_change_us() -> int:
        times: list[int] = [event["at_us"] for peer in (alice, bob) for event in peer.events("standing")]
        return max(times, default=began_us)

    deadline_s = time.monotonic() + timeout_s
    while now_us() - last_change_us() < _SETTLE_S * 1_000_000 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    routes = [peer.standing(other.identity) for peer, other in ((alice, bob), (bob, alice))]
    return Meeting(
        first_us=first_at_us - began_us,
        answer_us=answer_at_us - answered_us,
        routes=(routes[0].route if routes[0] else "", routes[1].route if routes[1] else ""),
        settled_us=last_change_us() - began_us,
    )


def write_certificate(path: Path) -> None:
    """A self-made certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "turn.lab")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
