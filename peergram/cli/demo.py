"""`peergram demo`: two peers in two processes talk over a bad network, and count what arrives."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import IO, Any

import click
from rich.live import Live

import peergram
from peergram.cli.call import Call
from peergram.cli.demo_peer import NAME, TICK_S, LineReader, bad_network, snapshot, tallies_of
from peergram.cli.demo_traffic import CONFIG, HELLO_CHANNEL, Traffic, has_arrived
from peergram.cli.demo_view import Scene, Side, heading, progress_line, say_verdict, screen, summary
from peergram.cli.terminal import Failure, on_terminal, out, printable, say
from peergram.drivers.fake_network import FakeNetwork
from peergram.events import SendFlags
from peergram.identity import Identity
from peergram.messages import Messages

_START_TIMEOUT_S = 15.0
_STANDSTILL_S = 20.0
"""So long may nothing reliable arrive before the demonstration counts the rest as lost."""
_SCREEN_INTERVAL_S = 0.125
_LINE_INTERVAL_S = 1.0
_CHILD_END_S = 3.0


@click.command()
@click.option(
    "--loss", metavar="PERCENT", type=click.FloatRange(0, 100), default=5.0, show_default=True, help="Datagrams lost, each way."
)
@click.option("--lag", metavar="MS", type=click.FloatRange(0, 5000), default=40.0, show_default=True, help="Delay, each way.")
@click.option("--seconds", type=click.FloatRange(0.5, 3600), default=8.0, show_default=True, help="How long both send.")
def demo(loss: float, lag: float, seconds: float) -> int:
    """Watch two peers talk over a bad network.

    Both are processes on this machine. They send small and large, reliable and unreliable messages on four channels, both ways;
    at the end every message is accounted for. The exit code is 0 if all reliable ones arrived, in order and unchanged.
    """
    seed = secrets.randbits(32)
    scene = Scene(loss, lag, seconds, Side("alice"), Side(NAME))
    if not on_terminal():
        say(f"peergram demo: {scene.title}")
    with _second_process(loss, lag, seed) as second, _live(scene) as live:
        network = bad_network(loss, lag, seed + 1)
        with Messages("alice", key=False, trust="open", config=CONFIG, fake_network=network, signaling=None) as net:
            peer = Identity.ip(("127.0.0.1", second.wait_listening()))
            waited_s = Performance(scene, live, second, net, network, Traffic(net, peer, Random(seed + 2))).play()
    if on_terminal():
        for line in heading(scene):
            say(line)
        say("")
    out.print(summary(scene, width=out.width if on_terminal() else 80))
    return 0 if say_verdict(scene, waited_s) else 1


@contextmanager
def _live(scene: Scene) -> Iterator[Live | None]:
    if not on_terminal():
        yield None
        return
    with Live(screen(scene, height=out.height), console=out, auto_refresh=False, transient=True) as live:
        yield live


class SecondProcess:
    """The other peer: its reports, and why it died if it did."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._orders = process.stdin
        self._errors = errors
        self.reports = LineReader(process.stdout)

    def wait_listening(self) -> int:
        """Its port."""
        until_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < until_s:
            for line in self.reports.take():
                return int(line["listening"])
            self.check()
            time.sleep(TICK_S)
        raise Failure(
            f"The second process did not start within {_START_TIMEOUT_S:.0f} s: try again when the machine is less busy"
        )

    def stop_sending(self) -> None:
        with suppress(OSError):
            self._orders.write('{"stop": true}\n')
            self._orders.flush()

    def check(self) -> None:
        """Raise Failure if it has ended."""
        if self.reports.is_over:
            self._process.wait(_CHILD_END_S)
            self._errors.seek(0)
            last = self._errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise Failure(f"The second process ended early ({printable(last) or f'exit code {self._process.returncode}'})")

    def end(self) -> None:
        """Let it close its session and go; the end of its input is the sign."""
        with suppress(OSError):
            self._orders.close()
        try:
            self._process.wait(_CHILD_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def _second_process(loss: float, lag_ms: float, seed: int) -> Iterator[SecondProcess]:
    source = str(Path(peergram.__file__).parent.parent)
    paths = [source, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "peergram.cli.demo_peer", str(loss), str(lag_ms), str(seed)]
    with tempfile.TemporaryFile() as errors:
        # In a session of its own, Ctrl-C does not reach it: it ends when its input does, whatever becomes of this process.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
            start_new_session=True, creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )  # fmt: skip
        second = SecondProcess(process, errors)
        try:
            yield second
        finally:
            second.end()


class Performance:
    """The first peer, who also shows what happens."""

    def __init__(
        self, scene: Scene, live: Live | None, second: SecondProcess, net: Messages, network: FakeNetwork, traffic: Traffic
    ) -> None:
        self._scene = scene
        self._live = live
        self._second = second
        self._net = net
        self._network = network
        self._traffic = traffic
        self._call = Call(net, traffic.peer, HELLO_CHANNEL)
        self._other_is_sending = True
        self._show_at_s = 0.0
        self._started_at_s = time.monotonic()

    def play(self) -> float:
        """Everything from the first message to the last; how long was waited for the last to arrive, in seconds."""
        self._connect()
        self._scene.phase = "both send"
        while (elapsed_s := time.monotonic() - self._started_at_s) < self._scene.seconds:
            self._traffic.send_due(elapsed_s)
            self._step()
        self._second.stop_sending()
        return self._wait_for_the_rest()

    def _connect(self) -> None:
        self._scene.phase = "alice calls bob"
        self._net.send_message_to_user(self._traffic.peer, b"", SendFlags.RELIABLE, HELLO_CHANNEL)
        self._show()
        timeout_s = CONFIG.timeout_initial_us / 1e6
        try:
            self._call.wait_connected(timeout_s)
        except Failure:
            self._second.check()
            raise Failure(
                f"alice and bob did not reach each other within {timeout_s:.0f} s through {self._scene.loss:g} % loss and"
                f" {self._scene.lag_ms:g} ms delay each way: try less of it"
            ) from None
        self._started_at_s = time.monotonic()

    def _wait_for_the_rest(self) -> float:
        """Until all reliable messages are there, and unreliable ones had the time to come."""
        self._scene.phase = "waiting for the last"
        from_s = moved_at_s = time.monotonic()
        settled_at_s = from_s + 0.3 + 3 * self._scene.lag_ms / 1000
        left = self._unconfirmed()
        while (now_s := time.monotonic()) < moved_at_s + _STANDSTILL_S:
            self._step()
            theirs = self._scene.bob
            done = has_arrived(self._traffic.sent, theirs.received) and has_arrived(theirs.sent, self._traffic.received)
            if done and not self._other_is_sending and now_s > settled_at_s:
                break
            if left != (left := self._unconfirmed()):
                moved_at_s = now_s
        _update(self._scene.alice, snapshot(self._net, self._traffic, self._network))
        return time.monotonic() - from_s

    def _unconfirmed(self) -> tuple[int, int]:
        """Reliable bytes that are still to arrive, at bob and at alice."""
        status = self._scene.bob.status or {}
        bytes_at_bob: int = status.get("pending_reliable_bytes", 0) + status.get("sent_unacked_reliable_bytes", 0)
        return self._call.unconfirmed_bytes, bytes_at_bob

    def _step(self) -> None:
        self._traffic.receive()
        self._take_reports()
        self._second.check()
        self._call.check()
        self._show()
        time.sleep(TICK_S)

    def _take_reports(self) -> None:
        bob = self._scene.bob
        for line in self._second.reports.take():
            if "request" in line:
                who = line["request"]
                self._scene.request = f"bob let in {who['identity']} at {who['address']}, key {who['key']}"
                if self._live is None:
                    say(self._scene.request)
            if "report" in line:
                self._other_is_sending = line["is_sending"]
                _update(bob, line["report"])

    def _show(self) -> None:
        now_s = time.monotonic()
        self._scene.elapsed_s = now_s - self._started_at_s
        if now_s < self._show_at_s:
            return
        _update(self._scene.alice, snapshot(self._net, self._traffic, self._network))
        if self._live is None:
            self._show_at_s = now_s + _LINE_INTERVAL_S
            say(progress_line(self._scene))
        else:
            self._show_at_s = now_s + _SCREEN_INTERVAL_S
            self._live.update(screen(self._scene, height=out.height), refresh=True)


def _update(side: Side, report: dict[str, Any]) -> None:
    side.status = report["status"]
    side.sent, side.received = tallies_of(report["sent"]), tallies_of(report["received"])
    side.datagrams_sent, side.datagrams_lost = report["datagrams_sent"], report["datagrams_lost"]
