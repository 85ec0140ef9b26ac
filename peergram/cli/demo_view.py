"""What the demonstration shows: how both connections are doing, what has been sent and received, and the summary at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from peergram.cli.demo_traffic import STREAMS, Stream, Tallies, Tally, is_intact
from peergram.cli.terminal import bytes_text, say, seconds_text
from peergram.events import ConnectionState

_WIDTH_MAX = 100
_AIRY_HEIGHT = 28
_SUMMARY_WIDTH = 80
"""Narrower terminals get a summary of fewer words."""
_CELL_WIDTH_MIN = 17
"""Room for `1234/s, 1.0 MB/s` and its padding."""
_PADDING = (0, 1, 0, 0)
_NOTHING = "–"
_STATE_STYLES = {ConnectionState.CONNECTED: "green", ConnectionState.CONNECTING: "yellow"}


@dataclass(slots=True)
class Side:
    """What is known about one peer: its counts, and `RealTimeStatus` as a dictionary."""

    name: str
    status: dict[str, Any] | None = None
    sent: Tallies = field(default_factory=dict)
    received: Tallies = field(default_factory=dict)
    datagrams_sent: int = 0
    datagrams_lost: int = 0


@dataclass(slots=True)
class Scene:
    """Everything on the screen."""

    loss: float
    lag_ms: float
    seconds: float
    alice: Side
    bob: Side
    elapsed_s: float = 0.0
    phase: str = "starting the second process"
    request: str = ""

    @property
    def title(self) -> str:
        return f"{self.loss:g} % loss and {self.lag_ms:g} ms delay each way; two processes, encrypted UDP"


# While it runs


def screen(scene: Scene, *, height: int) -> RenderableType:
    """The whole live view; fits 80 columns and 24 lines, and is more airy if `height` allows it."""
    air = [Text()] if height >= _AIRY_HEIGHT else []
    title = Text.assemble(("peergram demo: ", "bold"), scene.title, no_wrap=True, overflow="ellipsis")
    request = Text(scene.request or " ", style="green", no_wrap=True, overflow="ellipsis")
    body = Group(*air, title, _progress(scene), request, *air, _status_table(scene), Text(), _traffic_table(scene), *air)
    return Constrain(body, _WIDTH_MAX)


def _progress(scene: Scene) -> RenderableType:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    done_s = min(scene.elapsed_s, scene.seconds)
    row.add_row(ProgressBar(total=scene.seconds, completed=done_s), f"{done_s:.1f} of {scene.seconds:g} s, {scene.phase}")
    return row


def _status_table(scene: Scene) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=_PADDING, show_edge=False)
    table.add_column("connection", style="dim", no_wrap=True, ratio=4)
    for side in (scene.alice, scene.bob):
        table.add_column(side.name, no_wrap=True, ratio=3, min_width=_CELL_WIDTH_MIN, header_style="bold cyan")
    for label, show in _STATUS_ROWS:
        cells = (_cell(show, side.status) for side in (scene.alice, scene.bob))
        table.add_row(label, *cells)
    return table


def _cell(show: Callable[[dict[str, Any]], str], status: dict[str, Any] | None) -> Text:
    if status is None:
        return Text(_NOTHING, style="dim")
    style = _STATE_STYLES.get(status["state"], "red") if show is _state else ""
    return Text(show(status), style=style)


def _state(status: dict[str, Any]) -> str:
    return ConnectionState(status["state"]).name.lower().replace("_", " ")


def _quality(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.0%}"


def _ms(value_us: int | None) -> str:
    return _NOTHING if value_us is None else f"{value_us / 1000:.1f} ms"


_STATUS_ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("state", _state),
    ("ping", lambda s: _NOTHING if s["ping_ms"] is None else f"{s['ping_ms']} ms"),
    ("quality local / remote", lambda s: f"{_quality(s['quality_local'])} / {_quality(s['quality_remote'])}"),
    ("out, packets and bytes", lambda s: f"{s['out_packets_per_s']:.0f}/s, {bytes_text(s['out_bytes_per_s'])}/s"),
    ("in, packets and bytes", lambda s: f"{s['in_packets_per_s']:.0f}/s, {bytes_text(s['in_bytes_per_s'])}/s"),
    ("send rate allowed", lambda s: f"{bytes_text(s['send_rate_bytes_per_s'])}/s"),
    ("pending reliable", lambda s: bytes_text(s["pending_reliable_bytes"])),
    ("pending unreliable", lambda s: bytes_text(s["pending_unreliable_bytes"])),
    ("sent, unacknowledged", lambda s: bytes_text(s["sent_unacked_reliable_bytes"])),
    ("queue time", lambda s: _ms(s["queue_time_us"])),
    ("jitter, most", lambda s: _ms(s["max_jitter_us"])),
)


def _traffic_table(scene: Scene) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=_PADDING, show_edge=False)
    table.add_column("received of sent", style="dim", no_wrap=True, ratio=4)
    for source, target in _directions(scene):
        table.add_column(
            f"{source.name} → {target.name}", no_wrap=True, ratio=3, min_width=_CELL_WIDTH_MIN, header_style="bold cyan"
        )
    for stream in STREAMS:
        cells = (_counts(stream, source, target) for source, target in _directions(scene))
        table.add_row(f"{stream.channel} {stream.name}, {stream.kind}", *cells)
    return table


def _counts(stream: Stream, source: Side, target: Side) -> str:
    sent, received = _pair(stream, source, target)
    # The two numbers are from different processes; the older one must not look like a wonder.
    return f"{min(sent.messages, received.messages)} of {sent.messages}"


def _directions(scene: Scene) -> tuple[tuple[Side, Side], tuple[Side, Side]]:
    return (scene.alice, scene.bob), (scene.bob, scene.alice)


def _pair(stream: Stream, source: Side, target: Side) -> tuple[Tally, Tally]:
    return source.sent.get(stream.name) or Tally(), target.received.get(stream.name) or Tally()


def progress_line(scene: Scene) -> str:
    """The same in one line, where there is no terminal."""
    parts = [f"{scene.elapsed_s:4.0f} s"]
    for side in (scene.alice, scene.bob):
        status = side.status
        if status is not None:
            ping = "?" if status["ping_ms"] is None else status["ping_ms"]
            out_rate, in_rate = bytes_text(status["out_bytes_per_s"]), bytes_text(status["in_bytes_per_s"])
            parts.append(f"{side.name} {_state(status)}, ping {ping} ms, out {out_rate}/s, in {in_rate}/s")
    sent = sum(tally.messages for side in (scene.alice, scene.bob) for tally in side.sent.values())
    received = sum(tally.messages for side in (scene.alice, scene.bob) for tally in side.received.values())
    return "; ".join([*parts, f"messages {sent} sent, {received} received"])


# At the end


def heading(scene: Scene) -> list[str]:
    """What the live view said and took away: the conditions, and who was let in."""
    return [f"peergram demo: {scene.title}", *filter(None, [scene.request])]


def summary(scene: Scene, *, width: int) -> Table:
    """What became of every message, by direction and channel; in few words if `width` is small."""
    is_narrow = width < _SUMMARY_WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=_PADDING if is_narrow else (0, 1), show_edge=False)
    table.add_column("channel", no_wrap=True)
    for name in ("sent", "received", "lost") if is_narrow else ("sent", "received", "lost", "data"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("check", no_wrap=True)
    for source, target in _directions(scene):
        table.add_row(Text(f"{source.name} → {target.name}", style="bold cyan"))
        for stream in STREAMS:
            table.add_row(*_summary_cells(stream, source, target, is_narrow=is_narrow))
    return table


def _summary_cells(stream: Stream, source: Side, target: Side, *, is_narrow: bool) -> list[Text]:
    sent, received = _pair(stream, source, target)
    lost = sent.messages - received.messages
    good = is_intact(stream, sent, received)
    verdict = ("good" if is_narrow else "same SHA-256" if stream.reliable else "undamaged") if good else "WRONG"
    cells = [
        Text(f"  {stream.channel} {stream.name}, {stream.kind}"),
        Text(str(sent.messages)),
        Text(str(received.messages)),
        Text(_lost_text(lost, sent.messages), style="bold red" if lost and stream.reliable else "yellow" if lost else ""),
        Text(verdict, style="green" if good else "bold red"),
    ]
    return cells if is_narrow else [*cells[:-1], Text(bytes_text(received.size_bytes)), cells[-1]]


def _lost_text(lost: int, sent: int) -> str:
    return f"{lost} ({lost / sent:.0%})" if lost and sent else str(lost)


def say_verdict(scene: Scene, waited_s: float) -> bool:
    """The last lines; whether everything is as it should be."""
    pairs = [(stream, *_pair(stream, source, target)) for source, target in _directions(scene) for stream in STREAMS]
    wrong = [stream for stream, sent, received in pairs if not is_intact(stream, sent, received)]
    reliable = sum(sent.messages for stream, sent, _ in pairs if stream.reliable)
    missing = sum(sent.messages - received.messages for stream, sent, received in pairs if stream.reliable)
    datagrams = scene.alice.datagrams_sent + scene.bob.datagrams_sent
    lost = scene.alice.datagrams_lost + scene.bob.datagrams_lost
    say("")
    for side in (scene.alice, scene.bob):
        if side.status is not None:
            say(f"{side.name}: {_connection_line(side.status)}")
    say(f"The simulated network dropped {lost} of {datagrams} datagrams.")
    if wrong:
        say(
            f"Not as promised: {missing} of {reliable} reliable messages did not arrive within {seconds_text(waited_s)} after"
            f" the last was sent; wrong: {', '.join(dict.fromkeys(stream.name for stream in wrong))}.",
            "bold red",
        )
        return False
    say(f"All {reliable} reliable messages arrived, once each, in order and unchanged.", "bold green")
    return True


def _connection_line(status: dict[str, Any]) -> str:
    here, there = _quality(status["quality_local"]), _quality(status["quality_remote"])
    return f"{_state(status)}, ping {status['ping_ms']} ms, packets that arrive here {here}, there {there}"
