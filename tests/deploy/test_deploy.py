"""The files that operators start from hold together: options that exist, files that are there, servers that read them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import click
import pytest

from peergram.cli.serve import serve
from peergram.drivers.relay_files import load_relay_map
from peergram.identity import Identity
from peergram.servers.fleet_core import NODES_SUBJECT, subject_of
from peergram.servers.fleet_store import NAMES_BUCKET, NEW_NAMES_BUCKET
from peergram.servers.relay_desk import RelayDesk
from peergram.servers.relay_files import load_relay_secrets
from peergram.signaling.server_url import parse_server_url, parse_server_urls

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FLEET = DEPLOY / "fleet"
UNITS = sorted(DEPLOY.rglob("*.service"))
OPTIONS = {option for parameter in serve.params if isinstance(parameter, click.Option) for option in parameter.opts}
POPS = ("fra", "sin")


def sections(unit: Path) -> dict[str, list[tuple[str, str]]]:
    """Of a unit; a line that ends in a backslash goes on."""
    found: dict[str, list[tuple[str, str]]] = {}
    section = ""
    for line in unit.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            found[section] = []
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[section].append((key, value))
    return found


def environment() -> dict[str, str]:
    lines = [line for line in (FLEET / "node.env").read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def command_of(unit: Path) -> list[str]:
    command = dict(sections(unit)["Service"])["ExecStart"]
    for name, value in environment().items():
        command = command.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return shlex.split(command)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.parent.name)
def test_units_use_options_that_exist(unit: Path) -> None:
    words = command_of(unit)
    assert words[:2] == ["/opt/peergram/bin/peergram", "serve"]
    used = {word for word in words if word.startswith("--")}
    assert used <= OPTIONS
    assert not [word for word in words if "$" in word]
    # What takes a value has one, as the command itself sees it.
    context = serve.make_context("serve", words[2:], resilient_parsing=True)
    assert context.args == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.parent.name)
def test_units_end_later_than_a_server_needs_and_are_understood(unit: Path) -> None:
    service = dict(sections(unit)["Service"])
    assert int(service["TimeoutStopSec"]) > 60 + 5
    assert "HUP" in service["ExecReload"]
    assert set(sections(unit)) == {"Unit", "Service", "Install"}
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False)
    assert not re.search(r"Unknown|Invalid|ignoring", done.stderr), done.stderr


def test_files_that_are_named_in_the_folder_are_there_or_are_to_be_made_as_its_page_says() -> None:
    page = (DEPLOY / "README.md").read_text()
    for name in re.findall(r"`fleet/([a-z.-]+)`", page):
        assert (FLEET / name).exists(), name
    for path in re.findall(r"\]\(([^)#]+)", page):
        assert (DEPLOY / path).exists(), path
    for word in command_of(FLEET / "peergram-serve.service"):
        if word.startswith("/etc/peergram/"):
            assert word.removeprefix("/etc/peergram/").split("/")[0] in page, word
    assert {path.name for path in FLEET.iterdir()} == {
        "peergram-serve.service", "node.env", "nats-server.conf", "relay-map.json", "relay-secrets",
        *(f"turnserver-{pop}.conf" for pop in POPS),
    }  # fmt: skip


def test_addresses_are_addresses() -> None:
    assert parse_server_url(environment()["URL"]).is_secure
    clients = re.search(r'signaling="([^"]+)"', (DEPLOY / "README.md").read_text())
    assert clients is not None
    assert len(parse_server_urls(clients[1])) == 3


def test_clients_of_the_fleet_are_told_of_its_two_places_with_tickets_and_those_of_one_box_of_its_own_relay(
    tmp_path: Path,
) -> None:
    words = command_of(FLEET / "peergram-serve.service")
    given = {option: words[words.index(option) + 1] for option in ("--relay-map", "--relay-secrets", "--turn")}
    assert given.pop("--turn") == "off"
    assert {Path(path).name for path in given.values()} == {"relay-map.json", "relay-secrets"}
    secrets = tmp_path / "relay-secrets"
    secrets.write_bytes((FLEET / "relay-secrets").read_bytes())
    secrets.chmod(0o600)
    desk = RelayDesk(load_relay_map(FLEET / "relay-map.json"), load_relay_secrets(secrets), wall_s=lambda: 0)
    assert [ticket.code for ticket in desk.mint(Identity.of("alice")).tickets] == list(POPS)
    options = {word for word in command_of(DEPLOY / "one-box" / "peergram-serve.service") if word.startswith("--")}
    assert options == {"--state", "--log-format"}


def test_secrets_are_the_same_at_nodes_and_at_relays_and_places_are_on_the_map() -> None:
    secrets = dict(line.split() for line in (FLEET / "relay-secrets").read_text().splitlines())
    places = json.loads((FLEET / "relay-map.json").read_text())["pops"]
    assert [place["code"] for place in places] == list(secrets) == list(POPS)
    for place in places:
        relay = dict(line.partition("=")[::2] for line in relay_lines(place["code"]))
        assert relay["static-auth-secret"] == secrets[place["code"]]
        assert f"turn:{relay['realm']}" in place["servers"]


def relay_lines(pop: str) -> list[str]:
    text = (FLEET / f"turnserver-{pop}.conf").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="needs turnserver (apt: coturn)")
@pytest.mark.parametrize("pop", POPS)
def test_coturn_reads_its_file_and_knows_every_word(pop: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = ("cert=", "pkey=", "listening-port=", "tls-listening-port=")
    lines = [line for line in relay_lines(pop) if not line.startswith(paths)]
    config = tmp_path / "turnserver.conf"
    extra = [f"listening-port={port}", "listening-ip=127.0.0.1", "relay-ip=127.0.0.1", "no-tls", "no-dtls", "log-file=stdout"]
    config.write_text("\n".join([*lines, *extra, f"pidfile={tmp_path}/pid", f"userdb={tmp_path}/db"]) + "\n")
    process = subprocess.Popen(["turnserver", "-c", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: list[str] = []
    try:
        assert process.stdout is not None
        # It says this once it has read all of the file, and complains of what it does not know before.
        while not said or "DB connection" not in said[-1]:
            said.append(process.stdout.readline())
            assert said[-1], said
    finally:
        process.kill()
        process.communicate()
    assert not [line for line in said if re.search("bad config|unrecogni|unknown", line, re.IGNORECASE)], said


@pytest.mark.skipif(shutil.which("nats-server") is None, reason="needs nats-server (apt: nats-server)")
def test_nats_reads_its_file(tmp_path: Path) -> None:
    text = (FLEET / "nats-server.conf").read_text()
    # The certificates are of the machines; without them the rest must be right.
    without_tls = re.sub(r"\n *tls \{[^}]*\}", "", text)
    assert without_tls.count("tls") < text.count("tls")
    config = tmp_path / "nats.conf"
    config.write_text(without_tls.replace("/var/lib/nats", str(tmp_path)))
    done = subprocess.run(["nats-server", "-t", "-c", str(config)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_nodes_may_say_on_the_bus_what_they_say_and_nothing_else() -> None:
    text = (FLEET / "nats-server.conf").read_text()
    publish, subscribe = (re.findall(r'"([^"]+)"', line) for line in re.findall(r"(?:publish|subscribe): \[(.*)\]", text))
    for subject in (NODES_SUBJECT, subject_of(Identity.of("alice"))):
        assert any(subject.startswith(pattern.rstrip(">")) for pattern in publish)
        assert any(subject.startswith(pattern.rstrip(">")) for pattern in subscribe)
    for bucket in (NAMES_BUCKET, NEW_NAMES_BUCKET):
        assert f"$KV.{bucket}.>" in publish
