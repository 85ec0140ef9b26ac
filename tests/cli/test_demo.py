from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import fields
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from rich.console import Console

from peergram.cli.demo_traffic import STREAMS, Tally, Traffic, is_intact
from peergram.cli.demo_view import Scene, Side, heading, say_verdict, screen, summary
from peergram.errors import Result
from peergram.events import ConnectionState, Message, RealTimeStatus
from peergram.identity import Identity
from peergram.messages import Messages

from .commands import run_command, running


def test_every_reliable_message_arrives_over_a_bad_network() -> None:
    done = run_command("demo", "--seconds", "2", "--loss", "5", "--lag", "40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bob let in str:alice at 127.0.0.1:" in done.stdout
    assert re.search(r"All \d\d\d reliable messages arrived", done.stdout)
    dropped, datagrams = map(int, re.search(r"dropped (\d+) of (\d+)", done.stdout).groups())  # type: ignore[union-attr]
    assert 0.02 < dropped / datagrams < 0.09
    rows = [line for line in done.stdout.splitlines() if "reliable" in line and ("same SHA-256" in line or "undamaged" in line)]
    assert len(rows) == 2 * len(STREAMS)
    assert done.stderr == ""


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_live_view_fits_small_terminals_without_cutting_numbers(width: int) -> None:
    status = dict.fromkeys((field.name for field in fields(RealTimeStatus)), 1_234.5) | {
        "state": ConnectionState.CONNECTED, "ping_ms": 1234, "quality_local": 0.95, "quality_remote": 1.0,
        "out_bytes_per_s": 999_000.0, "in_bytes_per_s": 1_000_000.0,
    }  # fmt: skip
    tallies = {stream.name: Tally(messages=1_234) for stream in STREAMS}
    alice, bob = (Side(name, status, tallies, tallies) for name in ("alice", "bob"))
    request = "bob let in str:alice at 127.0.0.1:5, key SHA256:" + "k" * 43
    scene = Scene(5, 40, 8, alice, bob, phase="waiting for the last", request=request)
    console = Console(width=width, height=24, record=True, file=StringIO())
    console.print(screen(scene, height=24))
    title, _bar, _request, *tables = console.export_text().rstrip().splitlines()
    assert title.startswith("peergram demo: 5 % loss and 40 ms delay each way")
    assert not any("…" in line for line in tables)
    assert 3 + len(tables) <= 23
    console.print(summary(scene, width=width))
    assert "…" not in console.export_text()


def test_what_stays_on_the_screen_says_how_bad_the_network_was_and_who_was_let_in() -> None:
    scene = Scene(5, 40.5, 8, Side("alice"), Side("bob"), request="bob let in str:alice")
    assert heading(scene) == ["peergram demo: 5 % loss and 40.5 ms delay each way; two processes, encrypted UDP", scene.request]


def test_there_is_a_line_of_progress_every_second() -> None:
    done = run_command("demo", "--seconds", "2", "--loss", "0", "--lag", "0")
    assert len(re.findall(r"^ +\d s; alice", done.stdout, re.MULTILINE)) >= 2
    assert "ping" in done.stdout


def test_ctrl_c_ends_both_processes_without_a_word() -> None:
    with running("demo", "--seconds", "30") as demo:
        demo.wait_line("bob let in")
        children = children_of(demo.process.pid)
        assert len(children) == 1
        demo.interrupt()
        assert demo.wait_end() == 130
        assert "".join(demo.errors).strip() == ""
        assert [pid for pid in children if is_running(pid)] == []


def test_the_second_process_ends_when_the_first_is_killed() -> None:
    with running("demo", "--seconds", "30") as demo:
        demo.wait_line("bob let in")
        (child,) = children_of(demo.process.pid)
        demo.process.kill()
        demo.wait_end()
        until_s = time.monotonic() + 10
        while is_running(child):
            assert time.monotonic() < until_s
            time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    found = []
    for path in processes():
        # Any of them may end meanwhile.
        with suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if words[1] == str(pid):
                found.append(int(path.parent.name))
    return found


def processes() -> list[Path]:
    found = [path for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    if not found:
        pytest.skip("needs /proc")
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Mirror:
    """Both ends of a network in one: gives back what `deliver` makes of the messages sent."""

    def __init__(self, deliver: Any) -> None:
        self.deliver = deliver
        self.sent: dict[int, list[bytes]] = {}

    def send_message_to_user(self, to: Identity, data: bytes, flags: int, channel: int) -> Result:
        self.sent.setdefault(channel, []).append(data)
        return Result.OK

    def receive_messages_on_channel(self, channel: int, max_messages: int) -> list[Message]:
        payloads = self.deliver(self.sent.pop(channel)) if channel in self.sent else []
        return [Message(PEER, channel, payload, n, True, 0) for n, payload in enumerate(payloads)]


PEER = Identity.of("bob")


def verdict(deliver: Any) -> list[tuple[bool, Tally]]:
    """Whether each reliable stream counts as intact, if the network does this to it."""
    traffic = Traffic(cast(Messages, Mirror(deliver)), PEER, Random(1))
    traffic.send_due(1.0)
    traffic.receive()
    reliable = [stream for stream in STREAMS if stream.reliable]
    return [(is_intact(s, traffic.sent[s.name], traffic.received[s.name]), traffic.received[s.name]) for s in reliable]


def test_unchanged_messages_count_as_intact() -> None:
    assert [intact for intact, _ in verdict(lambda payloads: payloads)] == [True, True]


@pytest.mark.parametrize(
    "harm",
    [
        lambda payloads: payloads[1:],
        lambda payloads: payloads[::-1],
        lambda payloads: [*payloads, payloads[0]],
        lambda payloads: [*payloads[:-1], payloads[-1][:-1] + bytes([payloads[-1][-1] ^ 1])],
        lambda payloads: [*payloads[:-1], b""],
    ],
    ids=["lost", "reordered", "repeated", "damaged", "emptied"],
)
def test_a_harmed_stream_is_found_out(harm: Any) -> None:
    assert [intact for intact, _ in verdict(harm)] == [False, False]


@pytest.mark.parametrize("lost", [0, 1])
def test_one_reliable_message_too_few_is_a_failure(lost: int) -> None:
    sent, received = Tally(), Tally()
    for number in range(3):
        sent.add(bytes([number]))
        if number >= lost:
            received.add(bytes([number]))
    alice, bob = Side("alice", sent={"events": sent}), Side("bob", received={"events": received})
    assert say_verdict(Scene(5, 40, 1, alice, bob), waited_s=20) is (lost == 0)
