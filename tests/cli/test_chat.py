from __future__ import annotations

import builtins
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from peergram.cli.chat import Room
from peergram.errors import Result
from peergram.events import ConnectionInfo, ConnectionState, InfoFlags, Message, SessionFailed, SessionInfo, SessionRequested
from peergram.identity import Identity

from .commands import environment, free_port, port_in, run_command, running


def test_two_people_talk_and_each_sees_the_other_leave() -> None:
    with running("chat", "--as", "bob", "--listen", "127.0.0.1:0") as bob:
        port = port_in(bob.wait_line("call you at"))
        with running("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{port}") as alice:
            asked = bob.wait_line("wants to talk")
            assert asked.startswith("str:alice at 127.0.0.1:")
            bob.wait_line("key SHA256:")
            bob.type("what?\n")
            bob.wait_line("answer y or n")
            bob.type("y\n")
            alice.wait_line("str:bob is here")
            alice.type("hello bob\n")
            bob.wait_line("alice: hello bob")
            bob.type("hello alice\x1b[31m\n")
            assert "\x1b" not in alice.wait_line("bob: hello alice")
            alice.type("a last word\n")
            alice.end_input()
            assert alice.wait_end() == 0
        bob.wait_line("alice: a last word")
        bob.wait_line("alice has left")
        bob.type("still there?\n")
        bob.wait_line("Nobody is here")
        bob.interrupt()
        assert bob.wait_end() == 130
    assert [line.strip() for line in bob.errors + alice.errors if line.strip()] == []


def test_a_refused_caller_is_told_so() -> None:
    with running("chat", "--as", "bob", "--listen", "127.0.0.1:0") as bob:
        port = port_in(bob.wait_line("call you at"))
        with running("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{port}") as alice:
            bob.wait_line("Let in?")
            bob.type("n\n")
            assert alice.wait_end() == 1
        bob.wait_line("alice was refused")
    assert len(alice.errors) == 1
    assert "refused" in alice.errors[0]


def test_a_caller_that_gives_up_is_no_longer_asked_about() -> None:
    with running("chat", "--as", "bob", "--listen", "127.0.0.1:0") as bob:
        port = port_in(bob.wait_line("call you at"))
        with running("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{port}") as alice:
            bob.wait_line("Let in?")
            alice.interrupt()
            assert alice.wait_end() == 130
        bob.wait_line("alice has given up")


def test_without_an_answer_the_call_ends_with_a_sentence() -> None:
    done = run_command("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{free_port()}", "--timeout", "0.5")
    assert done.returncode == 1
    assert "No answer from" in done.stderr
    assert done.stderr.count("\n") == 1


def test_both_see_the_keys_that_they_may_compare() -> None:
    with running("chat", "--as", "bob", "--listen", "127.0.0.1:0") as bob:
        bobs_key = bob.wait_line("You are str:bob, key SHA256:").split()[-1].rstrip(".")
        port = port_in(bob.wait_line("call you at"))
        with running("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{port}") as alice:
            alices_key = alice.wait_line("You are str:alice, key SHA256:").split()[-1].rstrip(".")
            assert bob.wait_line("  key SHA256:").split()[-1] == alices_key
            bob.type("y\n")
            assert alice.wait_line("  key SHA256:").split()[-1] == bobs_key


def test_bytes_that_are_no_text_are_typed_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "peergram.cli", "chat", "--as", "bob", "--listen", "127.0.0.1:0"],
        input=b"\xff\xfe\n", capture_output=True, timeout=30, check=False,
        env=environment() | {"PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


class Door:
    """A network on which strangers ask and somebody answers."""

    state = ConnectionState.CONNECTING

    def __init__(self) -> None:
        self.on_session_request: Callable[[SessionRequested], object] = lambda request: None
        self.on_session_failed: Callable[[SessionFailed], object] = lambda failure: None
        self.keys: dict[Identity, str] = {}
        self.accepted: list[Identity] = []
        self.closed: list[str] = []
        self.sent: list[str] = []
        self.signaling_status = "none"
        self._is_closed = threading.Event()

    def ask(self, name: str, key: str) -> None:
        self.keys[Identity.of(name)] = key
        self.on_session_request(SessionRequested(Identity.of(name), "nothing", key))

    def accept_session_with_user(self, identity: Identity) -> bool:
        self.accepted.append(identity)
        return True

    def close_session_with_user(self, identity: Identity) -> bool:
        self.closed.append(str(identity))
        return True

    def send_message_to_user(self, identity: Identity, data: bytes, flags: int, channel: int) -> Result:
        self.sent.append(str(identity))
        return Result.OK

    def get_session_connection_info(
        self, identity: Identity, get_connection: bool = True, get_status: bool = True
    ) -> SessionInfo:
        info = ConnectionInfo(
            identity=identity, address="", state=self.state, end_reason=0, end_debug="", description="",
            flags=InfoFlags.NONE, own_peer=True, proven_by="nothing", key_fingerprint=self.keys[identity],
        )  # fmt: skip
        return SessionInfo(self.state, info)

    def receive_messages_on_channel(self, channel: int, max_messages: int) -> list[Message]:
        return []

    def run_callbacks(self) -> None: ...

    def wait(self, timeout_s: float | None = None) -> bool:
        return self._is_closed.wait(timeout_s)

    def close(self) -> None:
        self._is_closed.set()


def let_in(door: Door, monkeypatch: pytest.MonkeyPatch, *asks: tuple[str, str], late: tuple[str, str] | None = None) -> list[str]:
    """Who is let in by one `y`, after these have asked; `late` asks while it is being typed, before anything is shown."""
    room = Room(door)  # type: ignore[arg-type]
    for name, key in asks:
        door.ask(name, key)
    if late is not None:
        door.keys[Identity.of(late[0])] = late[1]
    lines = iter(["y"])

    def type_line(prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(builtins, "input", type_line)
    try:
        room.run()
    finally:
        room.leave()
        door.close()
    return [str(identity) for identity in door.accepted]


def test_an_answer_goes_to_whom_the_question_was_about(monkeypatch: pytest.MonkeyPatch) -> None:
    assert let_in(Door(), monkeypatch, ("alice", "1"), ("carol", "2"), ("alice", "3")) == ["str:alice"]


def test_an_answer_lets_nobody_in_whose_key_was_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert let_in(Door(), monkeypatch, ("alice", "1"), late=("alice", "other")) == []


def test_a_line_lets_nobody_in_who_asks_under_the_name_of_one_who_is_gone() -> None:
    door = Door()
    door.keys[Identity.of("alice")] = "1"
    room = Room(door)  # type: ignore[arg-type]
    door.state = ConnectionState.CONNECTED
    room.add(Identity.of("alice"), shows_proof=False)
    room._handle_line("hello")
    assert door.sent == ["str:alice"]
    door.state = ConnectionState.CONNECTING
    room._handle_line("a secret")
    assert door.sent == ["str:alice"]


def test_whoever_was_let_in_and_does_not_come_is_not_said_to_be_here(capsys: pytest.CaptureFixture[str]) -> None:
    door = Door()
    room = Room(door)  # type: ignore[arg-type]
    door.ask("alice", "1")
    room._handle_line("y")
    room._handle_line("hello")
    shown = capsys.readouterr().out
    assert "is here" not in shown
    assert "Still waiting for alice" in shown
    door.state = ConnectionState.NONE
    room._see_who_enters()
    assert "alice did not come" in capsys.readouterr().out
    assert door.closed == ["str:alice"]
