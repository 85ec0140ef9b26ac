"""A child process that answers commands, both as lines of JSON over its standard input and output.

`Child` is the parent's side; the rest is for the child. What a library prints must not mix with the answers, so `answers` takes
the standard output for them and leaves the standard error to all else.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

ROOT = Path(__file__).resolve().parents[2]
PIPES: dict[str, Any] = {
    "cwd": ROOT,
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "text": True,
    "encoding": "utf-8",
}
"""What a child must be started with."""
_ANSWER_GRACE_S = 20.0
_STOP_S = 5.0

Answer = dict[str, Any]


class ChildError(Exception):
    """The child refuses a command, has ended, or does not answer."""


class Child:
    """The parent's side of a child that was started with PIPES; returns once it has said its first line.

    `request` is one command and its answer. A caller that must not block (its own event loop runs in this thread) uses `post` and
    then `poll` until the answer is there.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdin
        assert process.stdout
        self._commands: IO[str] = process.stdin
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=pump_lines, args=(process.stdout, self._answers), daemon=True)
        self._reader.start()
        try:
            self._take(_ANSWER_GRACE_S)
        except ChildError:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def request(self, do: str, **arguments: Any) -> Answer:
        """One command and its answer; raises `ChildError` with the child's sentence if it refuses, dies or stays silent."""
        self.post(do, **arguments)
        return self._take(float(arguments.get("timeout_s", 0.0)) + _ANSWER_GRACE_S)

    def post(self, do: str, **arguments: Any) -> None:
        """Send a command without waiting for its answer; one at a time."""
        try:
            self._commands.write(json.dumps({"do": do, **arguments}) + "\n")
            self._commands.flush()
        except OSError as error:
            raise ChildError("the child has ended") from error

    def poll(self) -> Answer | None:
        """The answer to the command posted last, or None while there is none."""
        try:
            return _checked(self._answers.get_nowait())
        except queue.Empty:
            return None

    def stop(self) -> None:
        """End the child without a word to its peers; a second call does nothing."""
        if self._commands.closed:
            return
        try:
            self._commands.close()
            self.process.wait(timeout=_STOP_S)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()
        self._reader.join()

    def kill(self) -> None:
        """End the child as a crash would."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Nothing of it runs until `resume`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self.process.send_signal(signal.SIGCONT)

    def _take(self, timeout_s: float) -> Answer:
        try:
            return _checked(self._answers.get(timeout=timeout_s))
        except queue.Empty:
            raise ChildError(f"the child has not answered for {timeout_s:.0f} s") from None


def _checked(line: str) -> Answer:
    if not line:
        raise ChildError("the child has ended")
    answer: Answer = json.loads(line)
    if "error" in answer:
        raise ChildError(answer["error"])
    return answer


def pump_lines(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    """Until the stream ends, which an empty line reports."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")


def answers() -> IO[str]:
    """The child's standard output for its answers alone; whatever libraries print goes to the standard error from now on."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def say(stream: IO[str], answer: Answer) -> None:
    """One line to the parent."""
    stream.write(json.dumps(answer) + "\n")
    stream.flush()
