"""What operators do to a server that runs: reading files again, the gentle end, and the lines it writes."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from peergram import config
from peergram.crypto.keys import SigningKey
from peergram.drivers.authority_files import make_authority
from peergram.drivers.signaling.websocket import WebSocketSignaling
from peergram.errors import UsageError
from peergram.servers.lifecycle import RelayInUse, Reloaders, retire
from tests.cli.commands import Running, running
from tests.drivers.signaling.parties import Inbox, party, wait_until

from .authority import issue
from .running import answer_to, running_server

SERVE = ("serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", "--names", "off")


def json_line(command: Running, event: str) -> dict[str, object]:
    line = json.loads(command.wait_line(f'"event": "{event}"'))
    assert isinstance(line, dict)
    return line


# --- Reading again ---


def test_what_is_bad_in_one_file_changes_nothing_anywhere() -> None:
    state = {"map": 1, "secrets": 1}
    reloaders = Reloaders()

    def reader(name: str, *, is_bad: bool = False) -> Callable[[], Callable[[], None]]:
        def read() -> Callable[[], None]:
            if is_bad:
                raise UsageError(f"{name}: pops[2].code: 'FRA!' is no code")
            return lambda: state.__setitem__(name, 2)

        return read

    reloaders.add("map", reader("map"))
    reloaders.add("secrets", reader("secrets", is_bad=True))
    with pytest.raises(UsageError, match=r"pops\[2\]\.code"):
        reloaders.reload()
    assert state == {"map": 1, "secrets": 1}
    reloaders.add("secrets", reader("secrets"))
    assert reloaders.reload() == ["map", "secrets"]
    assert state == {"map": 2, "secrets": 2}


def shown_certificate(port: int) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    page = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    page.connect()
    assert isinstance(page.sock, ssl.SSLSocket)
    shown = page.sock.getpeercert(binary_form=True)
    page.close()
    assert shown is not None
    return shown


def test_sighup_reads_the_certificate_again_and_a_bad_one_keeps_the_old(tmp_path: Path) -> None:
    certificate, key, _ = issue(tmp_path, ["127.0.0.1"])
    arguments = ("--tls-cert", str(certificate), "--tls-key", str(key), "--log-format", "json")
    with running(*SERVE, *arguments) as command:
        addresses = json_line(command, "started")["addresses"]
        assert isinstance(addresses, list)
        port = int(addresses[0].rpartition(":")[2])
        first = shown_certificate(port)
        (tmp_path / "new").mkdir()
        new, new_key, _ = issue(tmp_path / "new", ["127.0.0.1"])
        new.replace(certificate)
        command.process.send_signal(signal.SIGHUP)
        line = json_line(command, "reload refused")
        assert line["level"] == "error"
        assert "do not belong together" in str(line["text"])
        assert shown_certificate(port) == first
        new_key.replace(key)
        command.process.send_signal(signal.SIGHUP)
        assert json_line(command, "reloaded")["what"] == ["certificate"]
        assert shown_certificate(port) != first


def test_sighup_reads_revocations_again(tmp_path: Path) -> None:
    folder = tmp_path / "club"
    make_authority(folder, SigningKey(bytes(32)))
    with running(*SERVE, "--authority", str(folder), "--log-format", "json") as command:
        json_line(command, "started")
        (folder / "authority.txt").rename(tmp_path / "away")
        command.process.send_signal(signal.SIGHUP)
        assert "cannot be read" in str(json_line(command, "reload refused")["text"])
        (tmp_path / "away").rename(folder / "authority.txt")
        command.process.send_signal(signal.SIGHUP)
        assert json_line(command, "reloaded")["what"] == ["authorities"]


# --- Lines ---


def test_lines_are_json_with_the_same_fields_and_strangers_write_none() -> None:
    with running(*SERVE, "--log-format", "json", "--node", "north") as command:
        started = json_line(command, "started")
        assert list(started)[:5] == ["time", "level", "event", "node", "text"]
        assert (started["level"], started["node"]) == ("info", "north")
        urls = started["urls"]
        assert isinstance(urls, list)
        host, _, port = urls[0].removeprefix("ws://").strip("/").partition(":")
        for nonsense in (b"\xff" * 100 + b"\r\n\r\n", b"GET /%0a{} HTTP/1.1\r\n\r\n", b"\0\r\n\r\n"):
            answer_to((host, int(port)), nonsense)
        client = WebSocketSignaling(urls[0])
        client.start(party("alice"), Inbox())
        wait_until(lambda: client.is_welcome)
        command.process.send_signal(signal.SIGTERM)
        assert command.wait_end() == 0
        client.close()
        rest = [json.loads(line)["event"] for line in command.output.splitlines()]
        assert rest == ["started", "draining", "stopping"]
        assert command.errors == []


# --- The gentle end ---


class Relay:
    """In use until it is told otherwise."""

    def __init__(self) -> None:
        self.drained_s = 0.0
        self.allocations = 1

    def drain(self, seconds: float) -> None:
        self.drained_s = seconds


def test_who_is_used_by_others_has_time_until_they_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def end(relay: Relay, until_s: float) -> float:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        loop.call_later(until_s, setattr, relay, "allocations", 0)
        await retire([RelayInUse(relay)], lambda: True)
        return loop.time() - begin_s

    relay = Relay()
    assert 0.2 <= asyncio.run(end(relay, 0.2)) < 0.6
    assert relay.drained_s == 60
    # And no longer than the limit, however long they stay.
    monkeypatch.setattr(config, "SERVER_DRAIN_US", 300_000)
    assert 0.3 <= asyncio.run(end(Relay(), 5.0)) < 0.8


def test_a_server_that_drains_says_so_on_its_page_and_refuses_whoever_comes() -> None:
    with running_server() as running:
        client = WebSocketSignaling(running.url)
        client.start(party("alice"), Inbox())
        wait_until(lambda: client.is_welcome)

        def drain() -> None:
            running.server.core.drain(0)
            running.server.drain()

        running.ask(drain)
        head, _, body = answer_to(running.address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert body == b"draining\n"
        wait_until(lambda: "about to stop" in client.status)
        client.close()
