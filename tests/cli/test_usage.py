from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .commands import environment, run_command

COMMANDS = ["demo", "chat", "send", "receive", "ping", "id", "known", "ca", "cert"]


def test_the_help_lists_every_command_and_each_has_its_own() -> None:
    listing = run_command("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in listing
    shown = run_command("send", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "ip:ADDRESS:PORT" in shown.stdout
    assert "--signaling" in shown.stdout


def test_the_version_is_one_line() -> None:
    shown = run_command("--version")
    assert shown.returncode == 0
    assert shown.stdout.startswith("peergram ")
    assert shown.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["sned"], "peergram --help"),
        (["demo", "--loss", "lots"], "peergram demo --help"),
        (["demo", "--loss", "101"], "0<=x<=100"),
        (["chat", "--signaling", "none", "--to", "str:bob"], "ip:192.0.2.1:27015"),
        (["chat", "--signaling", "udp"], "lan, none, or a server as wss://HOST:PORT/"),
        (["chat", "--signaling", "none", "--stun", "127.0.0.1:7"], "--stun helps to find somebody by name"),
        (["chat", "--listen", "0", "--turn", "u:p@127.0.0.1:7"], "give --signaling lan"),
        (["chat", "--stun", "127.0.0.1:lots"], "the port must be"),
        (["chat", "--turn", "u@127.0.0.1"], "turn:user:password@"),
        (["chat", "--turn", "stun:127.0.0.1"], "that is for --stun"),
        (["chat", "alice", "--as", "bob"], "give one name"),
        (["chat", "alice", "--to", "alice"], "'str:alice' is you"),
        (["chat", "--to", "localhost:27015"], "write an address in numbers"),
        (["ping"], "IDENTITY"),
        (["ping", "bob", "--count", "0"], "x>=1"),
        (["ping", "bob", "--signaling", "none"], "leave out --signaling none"),
        (["ping", "127.0.0.1:7"], "did you mean ip:127.0.0.1:7"),
        (["ping", ""], "an identity cannot be empty"),
        (["chat", "--listen", "70000"], "65535"),
        (["send", "missing.bin", "--as", "a", "--to", "ip:127.0.0.1:7"], "'missing.bin' cannot be read"),
        (["send", "/", "--as", "a", "--to", "ip:127.0.0.1:7"], "'/' is a folder: pack it"),
        (["sim", "--jobs", "0"], "x>=1"),
        (["id", "--frob"], "peergram id show --help"),
        (["id", ""], "an identity cannot be empty"),
        (["id", "new"], "give a name, or --default"),
        (["id", "new", "alice", "--default"], "give a name, or --default"),
        (["id", "new", "gen:" + "ab" * 32], "is itself a key"),
        (["id", "new", "alice", "--from", "missing.pem"], "there is no file 'missing.pem'"),
        (["known", "accept", "bob"], "FINGERPRINT"),
        (["known", "accept", "bob", "SHA256:short"], "'SHA256:short' is no fingerprint"),
        (["known", "accept", "gen:" + "ab" * 32, "SHA256:x"], "nothing to remember"),
        (["known", "forget"], "NAME"),
        (["send", __file__, "--as", "a", "--to", "127.0.0.1:7"], "did you mean ip:127.0.0.1:7"),
        (["send", __file__, "--as", "a", "--to", "ip:127.0.0.1"], "has no port"),
        (["serve", "--bind", "here"], "--bind 'here' has no port"),
        (["serve", "--stun-bind", "here"], "--stun-bind 'here' has no port"),
        (["serve", "--turn-bind", "here"], "--turn-bind 'here' has no port"),
        (["serve", "--turn-address", "here"], "--turn-address 'here' is no numeric address: write for example 192.0.2.7"),
        (["send", __file__, "--as", "", "--to", "ip:127.0.0.1:7"], "an identity cannot be empty"),
        (["send", __file__, "--as", "steamid:1", "--to", "ip:127.0.0.1:7"], "not a valid Steam id"),
        (["send", __file__, "--as", "a"], "--to"),
        (["receive", "--as", "b", "--listen", "nowhere"], "nowhere"),
        (["receive", "--as", "b", "--listen", "0", "--out", "/no/such"], "'/no/such' is no folder"),
        (["receive", "--as", "b", "--listen", "192.0.2.1:0"], "not an address of this machine"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_was_asked_for_wrongly_is_answered_in_one_line_with_exit_code_2(arguments: list[str], hint: str) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert hint in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_output_that_cannot_show_a_character_gets_another() -> None:
    """A pipe on Windows has a code page without arrows and lines."""
    done = subprocess.run(
        [sys.executable, "-m", "peergram.cli", "demo", "--seconds", "0.5"],
        capture_output=True, timeout=60, env=environment() | {"PYTHONIOENCODING": "ascii"}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"alice ? bob" in done.stdout


def test_a_port_in_use_is_one_line_and_exit_code_1() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        done = run_command("receive", "--as", "bob", "--listen", f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"UDP port {port}" in done.stderr
    assert "choose another port" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_click_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; import peergram.cli; peergram.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"peergram: the command line needs click, not installed here; install with: {sys.executable} -m pip install click\n"
    )


def test_starting_imports_no_command_and_no_network(tmp_path: Path) -> None:
    code = "import sys, peergram.cli.run; print([name for name in sys.modules if name in ('asyncio', 'peergram.cli.demo')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=30, check=False
    )
    assert done.stdout == "[]\n"
