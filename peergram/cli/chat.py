"""`peergram chat`: lines of text between terminals; whoever wants in is shown and must be let in.

The main thread reads the keyboard, a second one watches the network. Lines go to everybody who is here, and are not passed on.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque

import click

from peergram.address import format_address
from peergram.cli.call import Call, wait_for_news
from peergram.cli.terminal import (
    describe_proof,
    describe_request,
    dial_identity,
    listen_address,
    name_of,
    on_terminal,
    out,
    printable,
    still_asks,
)
from peergram.cli.terminal import say as say_line
from peergram.config import Config
from peergram.errors import Result, UsageError
from peergram.events import ConnectionState, SendFlags, SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.messages import Messages

try:
    import readline
except ImportError:
    # Windows: lines are edited by the console itself.
    readline = None  # type: ignore[assignment]

_LINES, _HELLO = 0, 1
"""Channels: what people type, and an empty message that opens the session."""
_ANSWER_TIMEOUT_S = 60.0
_CONFIG = Config(timeout_initial_us=300_000_000, session_idle_us=86_400_000_000, linger_us=1_000_000)
_LOOK_INTERVAL_S = 0.2
_BUSY_PAUSE_S = 0.01
_MESSAGES_PER_LOOK = 64
_PROMPT = "> "
_FLAGS = SendFlags.RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION


@click.command()
@click.option("--as", "who", metavar="NAME", help="Who you are, such as alice [default: a new key, which proves itself].")
@click.option("--listen", "listen", metavar="PORT", help="UDP port, or ADDRESS:PORT, at which others can call.")
@click.option("--to", "to", metavar="ip:ADDRESS:PORT", help="Whom to call.")
@click.option(
    "--timeout", metavar="SECONDS", type=click.FloatRange(0.1, 3600), default=_ANSWER_TIMEOUT_S, show_default=True,
    help="How long to wait for an answer to the call.",
)  # fmt: skip
def chat(who: str | None, listen: str | None, to: str | None, timeout: float) -> None:
    """Talk, line by line, over an encrypted session. Ctrl-D or Ctrl-C ends.

    \b
    Example, in two terminals:
      peergram chat --as alice --listen 27015
      peergram chat --as bob --to ip:127.0.0.1:27015
    """
    if listen is None and to is None:
        raise UsageError("Nobody to talk to: give --listen PORT to wait for a caller, or --to ip:ADDRESS:PORT to call somebody")
    peer = None if to is None else dial_identity(to)
    address = None if listen is None else listen_address(listen)
    with Messages(who, listen=address, config=_CONFIG) as net:
        say_line(f"You are {net.identity.printable}, key {net.key_fingerprint}.")
        if address is not None:
            say_line(f"Others can call you at {format_address(net.local_addresses[0])}.")
        room = Room(net)
        if peer is not None:
            _call(net, peer, timeout)
            room.add(peer)
        try:
            room.run()
        finally:
            room.leave()


def _call(net: Messages, peer: Identity, timeout_s: float) -> None:
    call = Call(net, peer, _LINES)
    say_line(f"Calling {peer.printable.removeprefix('ip:')}; waiting for an answer (Ctrl-C gives up) …")
    net.send_message_to_user(peer, b"", _FLAGS, _HELLO)
    call.wait_connected(timeout_s)


class Room:
    """Who is here, who asks to come in, and what is on the screen."""

    def __init__(self, net: Messages) -> None:
        self._net = net
        self._present: dict[Identity, str] = {}
        self._asking: deque[SessionRequested] = deque()
        self._lock = threading.RLock()
        self._is_typing = False
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="chat", daemon=True)
        net.on_session_request = self._handle_request
        net.on_session_failed = self._handle_failed

    def add(self, peer: Identity) -> None:
        """He is here."""
        connection = self._net.get_session_connection_info(peer, get_status=False).connection
        claimed = peer if connection is None or connection.identity is None else connection.identity
        with self._lock:
            self._present[peer] = name_of(claimed)
            self._show(f"{claimed.printable} is here.", "green")
            if connection is not None and peer != claimed:
                for line in describe_proof(connection):
                    self._show(line)

    def run(self) -> None:
        """Until the user ends his input."""
        self._watcher.start()
        while True:
            self._is_typing = on_terminal()
            try:
                line = input(_PROMPT if self._is_typing else "")
            except EOFError:
                if on_terminal():
                    out.print()
                return
            finally:
                self._is_typing = False
            with self._lock:
                self._handle_line(line)

    def leave(self) -> None:
        """Stop watching; closing the network is what tells the others."""
        self._is_over.set()
        if self._watcher.is_alive():
            self._watcher.join()

    # The keyboard

    def _handle_line(self, line: str) -> None:
        if self._asking:
            self._answer(self._asking[0], line.strip().lower())
        elif line.strip():
            self._send(line)

    def _answer(self, request: SessionRequested, answer: str) -> None:
        if answer not in ("y", "yes", "n", "no"):
            self._show("Please answer y or n.", "yellow")
            return
        self._asking.popleft()
        if answer.startswith("n"):
            self._net.close_session_with_user(request.identity)
            self._show(f"{name_of(request.identity)} was refused.")
        elif still_asks(self._net, request) and self._net.accept_session_with_user(request.identity):
            self.add(request.identity)
        else:
            self._show(f"{name_of(request.identity)} has given up in the meantime.", "yellow")
        self._ask_next()

    def _send(self, line: str) -> None:
        if not self._present:
            self._show("Nobody is here, so nobody got this line.", "yellow")
        for peer, name in self._present.items():
            result = self._net.send_message_to_user(peer, line.encode("utf-8", "replace"), _FLAGS, _LINES)
            if result == Result.INVALID_PARAM:
                self._show("This line is too long for one message; it was not sent.", "red")
            elif result != Result.OK:
                self._show(f"{name} did not get this line ({result.name}).", "red")

    # The network

    def _watch(self) -> None:
        while not self._is_over.is_set():
            wait_for_news(self._net, _LOOK_INTERVAL_S)
            with self._lock:
                self._net.run_callbacks()
                lines = self._net.receive_messages_on_channel(_LINES, _MESSAGES_PER_LOOK)
                hellos = self._net.receive_messages_on_channel(_HELLO, _MESSAGES_PER_LOOK)
                for message in lines:
                    name = self._present.get(message.identity, name_of(message.identity))
                    self._show(f"{name}: {printable(message.payload.decode('utf-8', 'replace'))}", "cyan")
                self._see_who_left()
            if not lines and not hellos:
                # Messages on channels nobody reads here must not keep this loop spinning.
                time.sleep(_BUSY_PAUSE_S)

    def _see_who_left(self) -> None:
        for peer, name in list(self._present.items()):
            if self._state(peer) == ConnectionState.NONE:
                del self._present[peer]
                self._show(f"{name} has left.", "yellow")
        while self._asking and self._state(self._asking[0].identity) == ConnectionState.NONE:
            self._show(f"{name_of(self._asking.popleft().identity)} has given up.", "yellow")
            self._ask_next()

    def _state(self, peer: Identity) -> ConnectionState:
        return self._net.get_session_connection_info(peer, False, False).state

    def _handle_request(self, request: SessionRequested) -> None:
        for place, other in enumerate(self._asking):
            if other.identity == request.identity:
                # He keeps his place, so that an answer that is being typed goes to the one it is meant for.
                self._asking[place] = request
                if place == 0 and request != other:
                    self._ask_next()
                return
        self._asking.append(request)
        if len(self._asking) == 1:
            self._ask_next()

    def _ask_next(self) -> None:
        if self._asking:
            first, *more = describe_request(self._asking[0])
            self._show(f"{first} wants to talk.", "bold")
            for line in (*more, "Let in? Type y or n."):
                self._show(line)

    def _handle_failed(self, event: SessionFailed) -> None:
        name = self._present.pop(event.identity, name_of(event.identity))
        self._show(f"{name} is lost: {printable(event.debug)}.", "red")
        if event.unconfirmed.messages:
            self._show(f"{event.unconfirmed.messages} of your lines may not have arrived.", "red")

    # The screen

    def _show(self, text: str, style: str = "") -> None:
        """One line above what the user is typing."""
        if not self._is_typing:
            say_line(text, style)
            return
        sys.stdout.write("\r\x1b[K")
        sys.stdout.flush()
        say_line(text, style)
        sys.stdout.write(_PROMPT + (readline.get_line_buffer() if readline else ""))
        sys.stdout.flush()
