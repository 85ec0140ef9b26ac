"""docs/porting.md: its examples do what the page says, before and after, and differ only where it says so."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peergram import config
from tests.cli.commands import ROOT, TIMEOUT_S, environment, free_port, unique_name

PAGE = (ROOT / "docs/porting.md").read_text(encoding="utf-8")
EXAMPLES = {code.split(":")[0].removeprefix("# "): code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)}


@contextmanager
def example(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of the page at work."""
    path = folder / name
    path.write_text(EXAMPLES[name], encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(path), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def result(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    output, errors = process.communicate(timeout=TIMEOUT_S)
    return output, errors, process.returncode


@pytest.mark.parametrize("face", ["udp", "peers", "godot"])
def test_two_players_hear_each_other(tmp_path: Path, face: str) -> None:
    names = [str(free_port()), str(free_port())] if face == "udp" else [unique_name("anna"), unique_name("ben")]
    with example(tmp_path, f"game_{face}.py", *names) as anna, example(tmp_path, f"game_{face}.py", *names[::-1]) as ben:
        assert result(anna) == result(ben) == ("heard positions: True\n", "", 0)


@pytest.mark.parametrize("face", ["udp", "peers"])
def test_a_service_answers(tmp_path: Path, face: str) -> None:
    where = str(free_port()) if face == "udp" else unique_name("echo")
    with example(tmp_path, f"echo_{face}.py", "serve", where) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "serving\n"
        with example(tmp_path, f"echo_{face}.py", "ask", where) as client:
            assert result(client) == ("you said hello\n", "", 0)


@pytest.mark.parametrize(("name", "most"), [("game", 13), ("echo", 16)])
def test_little_changes_when_a_program_is_ported(name: str, most: int) -> None:
    before, after = (EXAMPLES[f"{name}_{face}.py"].splitlines() for face in ("udp", "peers"))
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-" and line[2:].strip()]
    assert len(changed) <= most


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == {"game_udp.py", "game_peers.py", "game_godot.py", "echo_udp.py", "echo_peers.py"}


def test_every_limit_on_the_page_is_the_one_that_holds() -> None:
    for number in (config.FAKE_ADDRESSES_MAX, config.SHIM_PORT, config.SHIM_QUEUE_DATAGRAMS_MAX, config.SHIM_DATAGRAM_BYTES_MAX):
        assert str(number) in PAGE.replace("32 768", "32768")
    assert str(config.UNRELIABLE_SEND_BYTES_MAX) in PAGE
