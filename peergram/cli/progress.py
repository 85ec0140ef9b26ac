"""Progress of a transfer: a moving bar on a terminal, a line every second elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, DownloadColumn, Progress, Task, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from peergram.cli.terminal import bytes_text, on_terminal, out, say, seconds_text

_LINE_INTERVAL_S = 1.0
_RATE_AFTER_S = 0.5


class _Rate(TransferSpeedColumn):
    """Nothing rather than a question mark while the rate is unknown."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.finished_speed or task.speed else Text()


class TransferProgress:
    """Shows how much of `total_bytes` is done; a context manager."""

    def __init__(self, label: str, total_bytes: int) -> None:
        self._label = label
        self._total_bytes = total_bytes
        self._started_at_s = time.monotonic()
        self._line_at_s = self._started_at_s + _LINE_INTERVAL_S
        self._bar: Progress | None = None
        if on_terminal():
            columns = (BarColumn(bar_width=None), DownloadColumn(), _Rate(), TimeRemainingColumn(compact=True))
            self._bar = Progress(TextColumn("{task.description}", markup=False), *columns, console=out, expand=True)
            self._task = self._bar.add_task(_shortened(label), total=total_bytes)

    def __enter__(self) -> TransferProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done_bytes: int) -> None:
        """So much is done now."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done_bytes)
        elif (now_s := time.monotonic()) >= self._line_at_s:
            self._line_at_s = now_s + _LINE_INTERVAL_S
            say(self._line(done_bytes, now_s - self._started_at_s))

    @property
    def summary(self) -> str:
        """`5.2 MB in 2 s (2.6 MB/s)`, if all is done."""
        elapsed_s = time.monotonic() - self._started_at_s
        took = f"{bytes_text(self._total_bytes)} in {elapsed_s:.1f} s"
        # Of a moment's work the rate says nothing.
        return took if elapsed_s < _RATE_AFTER_S else f"{took} ({bytes_text(self._total_bytes / elapsed_s)}/s)"

    def _line(self, done_bytes: int, elapsed_s: float) -> str:
        rate = done_bytes / elapsed_s
        left = f", {seconds_text((self._total_bytes - done_bytes) / rate)} left" if rate else ""
        share = done_bytes / self._total_bytes if self._total_bytes else 1
        return f"{self._label}: {share:.0%} of {bytes_text(self._total_bytes)}, {bytes_text(rate)}/s{left}"


def _shortened(label: str, width: int = 24) -> str:
    return label if len(label) <= width else label[: width - 1] + "…"
