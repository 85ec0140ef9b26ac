"""The reference in a process of its own, driven by lines of JSON over its standard input and output.

Its faked loss, lag and reordering hold for a whole process, so two peers that differ need two processes. `ReferenceProcess` is
the parent's side. The child (`python -m tests.interop.gns_process SETTINGS`) answers each command with one line; meanwhile it
keeps calling the reference and works off its roles: `echo` sends every message back, `source` sends a message mix, `sink`
verifies one.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Protocol

from .child import PIPES, Answer, Child, answers, pump_lines, say
from .gns import CLOSED_STATES, RELIABLE, RESULT_LIMIT_EXCEEDED, RESULT_OK, UNRELIABLE, GnsError, Reference, Settings, State
from .mix import Mix, Verifier, messages

_IDLE_WAIT_S = 0.001
_STEP_MESSAGES = 256
_QUIET_S = 1.5


class ReferenceProcess(Child):
    """A reference peer in a child process; its commands are the `do_` methods of `_Service`, with their keyword arguments."""

    def __init__(self, settings: Settings | None = None) -> None:
        command = [sys.executable, "-m", "tests.interop.gns_process", json.dumps(asdict(settings or Settings()))]
        super().__init__(subprocess.Popen(command, **PIPES))

    def wait(self, condition: str, timeout_s: float = 10.0) -> Answer:
        """Until `connected`, `closed` or `done` (all roles have finished); raises `ChildError` when the time is over."""
        return self.request("wait", condition=condition, timeout_s=timeout_s)


class _Role(Protocol):
    """Work on the newest connection, a little at a time."""

    is_done: bool

    def step(self, reference: Reference) -> bool:
        """Do some; False means that there is nothing to do right now."""

    def report(self) -> Answer:
        """Figures so far."""


class _Echo:
    """Sends every message back with its own flags; does not read on while the send buffer is full."""

    def __init__(self) -> None:
        self.is_done = True
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._echoed = 0

    def step(self, reference: Reference) -> bool:
        if not self._waiting:
            self._waiting.extend((message.data, message.flags) for message in reference.receive())
        before = self._echoed
        while self._waiting and _send(reference, *self._waiting[0]):
            self._waiting.popleft()
            self._echoed += 1
        return self._echoed > before

    def report(self) -> Answer:
        return {"echoed": self._echoed}


class _Source:
    """Sends a mix as fast as the send buffer takes it; done when nothing of it is pending or unacknowledged any more."""

    def __init__(self, mix: Mix, flags: int) -> None:
        self.is_done = False
        self._flags = flags
        self._messages: Iterator[bytes] = messages(mix)
        self._next: bytes | None = next(self._messages, None)
        self._sent = 0
        self._refused = 0
        self._started_s = time.monotonic()
        self._elapsed_s = 0.0

    def step(self, reference: Reference) -> bool:
        if self.is_done:
            return False
        for _ in range(_STEP_MESSAGES):
            if self._next is None:
                return self._look_for_the_end(reference)
            if not _send(reference, self._next, self._flags):
                self._refused += 1
                return False
            self._sent += 1
            self._next = next(self._messages, None)
        return True

    def report(self) -> Answer:
        return {"sent": self._sent, "refused": self._refused, "elapsed_s": self._elapsed_s}

    def _look_for_the_end(self, reference: Reference) -> bool:
        status = reference.status()
        self.is_done = not (status.pending_reliable_bytes or status.pending_unreliable_bytes or status.unacked_reliable_bytes)
        self._elapsed_s = time.monotonic() - self._started_s
        return False


class _Sink:
    """Verifies an arriving mix; done when it is complete, or has been silent for a while if messages may be lost."""

    def __init__(self, mix: Mix, *, is_reliable: bool) -> None:
        self.is_done = False
        self._is_reliable = is_reliable
        self._verifier = Verifier(mix, is_reliable=is_reliable)
        self._first_s = self._last_s = 0.0

    def step(self, reference: Reference) -> bool:
        arrived = reference.receive()
        now_s = time.monotonic()
        for message in arrived:
            self._verifier.add(message.data)
        if arrived:
            self._first_s = self._first_s or now_s
            self._last_s = now_s
        verdict = self._verifier.verdict
        is_quiet = not self._is_reliable and bool(self._first_s) and now_s - self._last_s > _QUIET_S
        self.is_done = is_quiet or verdict.received >= verdict.expected
        return bool(arrived)

    def report(self) -> Answer:
        verdict = self._verifier.verdict
        return {**asdict(verdict), "is_complete": verdict.is_complete, "elapsed_s": self._last_s - self._first_s}


def _send(reference: Reference, data: bytes, flags: int) -> bool:
    result, _ = reference.send(data, flags)
    if result not in (RESULT_OK, RESULT_LIMIT_EXCEEDED):
        raise GnsError(f"the reference refuses to send {len(data)} bytes with flags {flags}: result {result}")
    return result == RESULT_OK


class _Service:
    """The child's side: the commands, and the loop that serves library, roles and standard input in turn."""

    def __init__(self, reference: Reference, answers: IO[str]) -> None:
        self._reference = reference
        self._answers = answers
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._roles: dict[str, _Role] = {}
        self._events: list[Answer] = []
        self._waiting: tuple[str, float] | None = None

    def run(self, commands: IO[str]) -> None:
        """Until the parent closes its end."""
        threading.Thread(target=pump_lines, args=(commands, self._commands), daemon=True).start()
        self._answer({"identity": self._reference.identity()})
        is_busy = False
        while (line := self._next_command(is_busy)) != "":
            if line:
                self._obey(json.loads(line))
            self._follow_changes()
            is_busy = self._work()
            self._answer_waiting()

    def do_listen(self, port: int, host: str = "127.0.0.1") -> Answer:
        """Connections that come in are accepted; the last one is the one that other commands mean."""
        self._reference.listen(port, host)
        return {}

    def do_connect(self, port: int, host: str = "127.0.0.1") -> Answer:
        """Begin a connection; `wait` for `connected` afterwards."""
        return {"connection": self._reference.connect(host, port)}

    def do_close(self, reason: int = 0, debug: str = "", linger: bool = False) -> Answer:
        """End the connection."""
        self._roles.clear()
        self._reference.close(reason, debug, linger)
        return {}

    def do_send(self, data: str, flags: int = RELIABLE, lane: int = 0) -> Answer:
        """One message, its bytes in hexadecimal."""
        result, number = self._reference.send(bytes.fromhex(data), flags, lane=lane)
        return {"result": result, "number": number}

    def do_flush(self) -> Answer:
        """Do not wait for more small messages."""
        self._reference.flush()
        return {}

    def do_lanes(self, priorities: list[int], weights: list[int]) -> Answer:
        """Configure lanes for sending."""
        self._reference.configure_lanes(priorities, weights)
        return {}

    def do_receive(self, messages_max: int = 256) -> Answer:
        """What has arrived and no role has taken: number, flags, lane and the bytes in hexadecimal."""
        arrived = self._reference.receive(messages_max)
        return {"messages": [[message.number, message.flags, message.lane, message.data.hex()] for message in arrived]}

    def do_echo(self) -> Answer:
        """From now on, send every message back."""
        self._roles["echo"] = _Echo()
        return {}

    def do_source(self, mix: Answer, is_reliable: bool = True) -> Answer:
        """Send a mix; `wait` for `done`."""
        self._roles["source"] = _Source(Mix(**mix), RELIABLE if is_reliable else UNRELIABLE)
        return {}

    def do_sink(self, mix: Answer, is_reliable: bool = True) -> Answer:
        """Expect a mix; `wait` for `done`, then read the report."""
        self._roles["sink"] = _Sink(Mix(**mix), is_reliable=is_reliable)
        return {}

    def do_report(self) -> Answer:
        """The figures of each role."""
        return {name: role.report() for name, role in self._roles.items()}

    def do_info(self) -> Answer:
        """Who is at the other end, and whether the connection lives."""
        info = self._reference.info()
        return {"info": info and asdict(info)}

    def do_status(self) -> Answer:
        """Rates, queues, round-trip time."""
        return asdict(self._reference.status())

    def do_describe(self) -> Answer:
        """The reference's own long text on the connection, and its log."""
        return {"text": self._reference.describe(), "log": list(self._reference.log)}

    def do_events(self) -> Answer:
        """All state changes so far, oldest first."""
        return {"events": self._events}

    def do_set_config(self, setting: int, value: float | str) -> Answer:
        """Change a setting of this process while it runs."""
        self._reference.set_config(setting, value)
        return {}

    def do_log(self) -> Answer:
        """What the library has said so far, at the level of `Settings.log_level`."""
        return {"log": list(self._reference.log)}

    def do_certificate_request(self) -> Answer:
        """What it wants certified, in hexadecimal."""
        return {"request": self._reference.certificate_request().hex()}

    def do_set_certificate(self, certificate: str) -> Answer:
        """Install a certificate, given in hexadecimal; whether it was taken, what was said, and who the reference is now."""
        is_taken, said = True, ""
        try:
            said = self._reference.set_certificate(bytes.fromhex(certificate))
        except GnsError as error:
            is_taken, said = False, str(error)
        return {"is_taken": is_taken, "said": said, "identity": self._reference.identity()}

    def do_wait(self, condition: str, timeout_s: float = 10.0) -> Answer | None:
        """Answered when the condition holds, or with an error when the time is over."""
        if condition not in ("connected", "closed", "done"):
            raise GnsError(f"cannot wait for {condition!r}: only for connected, closed or done")
        self._waiting = (condition, time.monotonic() + timeout_s)
        return None

    def _next_command(self, is_busy: bool) -> str | None:
        """A line, an empty one at the end of input, or None when there is nothing to obey."""
        try:
            return self._commands.get_nowait() if is_busy else self._commands.get(timeout=_IDLE_WAIT_S)
        except queue.Empty:
            return None

    def _obey(self, command: Answer) -> None:
        handler = getattr(self, f"do_{command.pop('do')}")
        try:
            answer = handler(**command)
        except (GnsError, TypeError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if answer is not None:
            self._answer(answer)

    def _follow_changes(self) -> None:
        for change in self._reference.run_callbacks():
            self._events.append(asdict(change))
            if change.new == State.CONNECTING and change.listen_socket:
                # Where it cannot (no cipher in common), it refuses the peer and says so in the next change.
                with suppress(GnsError):
                    self._reference.accept(change.connection)

    def _work(self) -> bool:
        if not self._reference.connection or not self._roles or self._state() != State.CONNECTED:
            return False
        progress = [role.step(self._reference) for role in self._roles.values()]
        return any(progress)

    def _answer_waiting(self) -> None:
        if self._waiting is None:
            return
        condition, deadline_s = self._waiting
        if self._holds(condition):
            answer: Answer = self.do_report() if condition == "done" else self.do_info() if self._reference.connection else {}
        elif time.monotonic() > deadline_s:
            answer = {"error": f"not {condition} in time: {self._standing()}"}
        else:
            return
        self._waiting = None
        self._answer(answer)

    def _holds(self, condition: str) -> bool:
        if condition == "done":
            return all(role.is_done for role in self._roles.values())
        return self._state() == State.CONNECTED if condition == "connected" else self._state() in CLOSED_STATES

    def _standing(self) -> Answer:
        status = self.do_status() if self._state() == State.CONNECTED else {}
        return {
            "report": self.do_report(),
            "status": status,
            "last events": self._events[-2:],
            "log": list(self._reference.log)[-5:],
        }

    def _state(self) -> State:
        info = self._reference.info() if self._reference.connection else None
        return info.state if info else State.NONE

    def _answer(self, answer: Answer) -> None:
        say(self._answers, answer)


def _main(settings: str) -> None:
    with answers() as stream:
        try:
            reference = Reference(Settings(**json.loads(settings)))
        except GnsError as error:
            say(stream, {"error": str(error)})
            return
        with reference:
            _Service(reference, stream).run(sys.stdin)


if __name__ == "__main__":
    _main(*sys.argv[1:])
