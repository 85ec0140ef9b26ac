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
from peergram.cli.call import Call, place_of, wait_for_news
from peergram.cli.network_options import ANSWER_TIMEOUT_S, NetworkOptions, listen_address, network_options, peer_identity
from peergram.cli.paths import GOING_ON, PathNews
from peergram.cli.terminal import (
    describe_proof,
    describe_request,
    name_of,
    on_terminal,
    out,
    printable,
    still_asks,
)
from peergram.cli.terminal import say as say_line
from peergram.config import Config
from peergram.errors import EndReason, Result, UsageError
from peergram.events import ConnectionInfo, ConnectionState, SendFlags, SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.messages import Messages

try:
    import readline
except ImportError:
    # Windows: lines are edited by the console itself.
    readline = None  # type: ignore[assignment]

_LINES, _HELLO = 0, 1
"""Channels: what people type, and an empty message that opens the session."""
_CONFIG = Config(timeout_initial_us=300_000_000, session_idle_us=86_400_000_000, linger_us=1_000_000)
_ENTER_TIMEOUT_S = 15.0
"""Whoever was let in and is not there after that has given up, or talks to somebody else of our name."""
_LOOK_INTERVAL_S = 0.2
_BUSY_PAUSE_S = 0.01
_MESSAGES_PER_LOOK = 64
_PROMPT = "> "
_FLAGS = SendFlags.RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION
_TYPE_A_NAME = "Type a name to call, such as bob, or wait."
_NO_ANSWER = "No answer from {}."
_NO_WAY = "{} has let you in, but no way for packets between you was found."
_NOT_COME = "{} did not come: no packet arrives from there, or another program that has your name was quicker."


@click.command()
@click.argument("name", required=False)
@click.option("--as", "alias", metavar="NAME", hidden=True)
@click.option("--to", "to", metavar="NAME", help="Whom to call at once: a name, or ip:ADDRESS:PORT.")
@click.option("--listen", "listen", metavar="PORT", help="UDP port, or ADDRESS:PORT, for those who call an address.")
@network_options
@click.option(
    "--timeout", metavar="SECONDS", type=click.FloatRange(0.1, 3600), default=ANSWER_TIMEOUT_S, show_default=True,
    help="How long to wait for an answer to a call.",
)  # fmt: skip
def chat(
    name: str | None, alias: str | None, to: str | None, listen: str | None, network: NetworkOptions, timeout: float
) -> None:
    """Talk, line by line, over an encrypted session.

    NAME is who you are, such as alice; without it, a new key, which proves itself. Ctrl-D or Ctrl-C ends.

    \b
    Examples, each in two terminals:
      peergram chat alice
      peergram chat bob --to alice
    \b
      peergram chat alice --listen 27015
      peergram chat bob --to ip:127.0.0.1:27015
    """
    if name is not None and alias is not None and name != alias:
        raise UsageError(f"You are {printable(name)!r} and {printable(alias)!r} at once: give one name")
    peer = None if to is None else peer_identity(to)
    address = None if listen is None else listen_address(listen)
    with network.open(name if name is not None else alias, peer, listen=address, config=_CONFIG) as net:
        say_line(f"You are {net.identity.printable}, key {net.key_fingerprint}.")
        if address is not None:
            say_line(f"Others can call you at {format_address(net.local_addresses[0])}.")
        say_line(net.signaling_status[:1].upper() + net.signaling_status[1:])
        if peer is not None:
            _call(net, peer, timeout)
        # Only now: until here, the call looked after what failed. Who asks meanwhile waits for the room.
        room = Room(net, timeout)
        if peer is not None:
            room.add(peer, shows_proof=True)
        try:
            room.run()
        finally:
            room.leave()


def _call(net: Messages, peer: Identity, timeout_s: float) -> None:
    call = Call(net, peer, _LINES)
    say_line(f"Calling {place_of(peer)}; waiting for an answer (Ctrl-C gives up) …")
    net.send_message_to_user(peer, b"", _FLAGS, _HELLO)
    call.wait_connected(timeout_s)


class Room:
    """Who is here, who asks to come in, who is being called, and what is on the screen."""

    def __init__(self, net: Messages, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._net = net
        self._answer_timeout_s = answer_timeout_s
        self._present: dict[Identity, str] = {}
        self._paths: dict[Identity, PathNews] = {}
        self._asking: deque[SessionRequested] = deque()
        self._calling: tuple[Identity, float] | None = None
        """Whom, and when we give up."""
        self._entering: dict[Identity, float] = {}
        """Who was let in and is on his way here, and when we give up."""
        self._takes_name = False
        """Whether the screen says that the next line is a name to call."""
        self._signaling = net.signaling_status
        self._lock = threading.RLock()
        self._is_typing = False
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="chat", daemon=True)
        net.on_session_request = self._handle_request
        net.on_session_failed = self._handle_failed
        net.on_peer_refused = lambda event: self._show(f"{printable(event.text)}.", "red")

    def add(self, peer: Identity, *, shows_proof: bool) -> None:
        """He is here; `shows_proof` unless he was shown already."""
        connection = self._connection(peer)
        claimed = peer if connection is None or connection.identity is None else connection.identity
        with self._lock:
            self._present[peer] = name_of(claimed)
            self._paths[peer] = PathNews()
            self._takes_name = False
            self._show(f"{claimed.printable} is here.", "green")
            if connection is not None and shows_proof:
                for line in describe_proof(connection):
                    self._show(line)

    def run(self) -> None:
        """Until the user ends his input."""
        self._watcher.start()
        with self._lock:
            if not self._present and not self._asking:
                self._offer_to_call("Nobody is here yet.")
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
        elif not line.strip():
            return
        elif self._present:
            self._send(line)
        elif awaited := [*self._entering, *([self._calling[0]] if self._calling is not None else [])]:
            self._show(f"Still waiting for {place_of(awaited[0])}; nobody got this line.", "yellow")
        elif self._takes_name:
            self._call(line.strip())
        else:
            self._offer_to_call("Nobody is here, so nobody got this line.")

    def _answer(self, request: SessionRequested, answer: str) -> None:
        if answer not in ("y", "yes", "n", "no"):
            self._show("Please answer y or n.", "yellow")
            return
        self._asking.popleft()
        if answer.startswith("n"):
            self._net.close_session_with_user(request.identity)
            self._show(f"{name_of(request.identity)} was refused.")
        elif still_asks(self._net, request) and self._net.accept_session_with_user(request.identity):
            self._entering[request.identity] = time.monotonic() + _ENTER_TIMEOUT_S
            self._see_who_enters()
        else:
            self._show(f"{name_of(request.identity)} has given up in the meantime.", "yellow")
        self._ask_next()

    def _send(self, line: str) -> None:
        for peer, name in self._present.items():
            if self._state(peer) not in GOING_ON:
                # Whoever asks under this name now must not be let in by a line that is meant for another.
                self._show(f"{name} did not get this line.", "red")
                continue
            result = self._net.send_message_to_user(peer, line.encode("utf-8", "replace"), _FLAGS, _LINES)
            if result == Result.INVALID_PARAM:
                self._show("This line is too long for one message; it was not sent.", "red")
            elif result != Result.OK:
                self._show(f"{name} did not get this line ({result.name}).", "red")

    def _offer_to_call(self, why: str) -> None:
        """Whatever is typed next is a name, and the screen says so first."""
        self._takes_name = True
        self._show(f"{why} {_TYPE_A_NAME}", "yellow")

    def _call(self, text: str) -> None:
        try:
            if len(text.split()) != 1:
                raise UsageError("A name to call is one word")
            peer = peer_identity(text)
        except UsageError as error:
            self._show(f"{error}.", "red")
            return
        if peer == self._net.identity:
            self._show("That is you.", "yellow")
            return
        if self._net.send_message_to_user(peer, b"", _FLAGS, _HELLO) != Result.OK:
            self._show(f"{place_of(peer)} cannot be called: {self._net.signaling_status.rstrip('.')}.", "red")
            return
        self._calling = (peer, time.monotonic() + self._answer_timeout_s)
        self._takes_name = False
        self._show(f"Calling {place_of(peer)}; waiting for an answer …")

    # The network

    def _watch(self) -> None:
        while not self._is_over.is_set():
            wait_for_news(self._net, _LOOK_INTERVAL_S)
            with self._lock:
                self._net.run_callbacks()
                lines = self._net.receive_messages_on_channel(_LINES, _MESSAGES_PER_LOOK)
                hellos = self._net.receive_messages_on_channel(_HELLO, _MESSAGES_PER_LOOK)
                # Nobody is heard before he is seen.
                self._see_who_answers()
                self._see_who_enters()
                for message in lines:
                    name = self._present.get(message.identity, name_of(message.identity))
                    self._show(f"{name}: {printable(message.payload.decode('utf-8', 'replace'))}", "cyan")
                self._see_paths()
                self._see_who_left()
                self._see_signaling()
            if not lines and not hellos:
                # Messages on channels nobody reads here must not keep this loop spinning.
                time.sleep(_BUSY_PAUSE_S)

    def _see_who_answers(self) -> None:
        if self._calling is None:
            return
        peer, until_s = self._calling
        state = self._state(peer)
        if state == ConnectionState.CONNECTED:
            self._calling = None
            if peer not in self._present:
                self.add(peer, shows_proof=True)
        elif time.monotonic() > until_s or state == ConnectionState.NONE:
            self._net.close_session_with_user(peer)
            self._give_up_call(_NO_WAY if state == ConnectionState.FINDING_ROUTE else _NO_ANSWER)

    def _give_up_call(self, why: str) -> None:
        assert self._calling is not None
        place = place_of(self._calling[0])
        self._calling = None
        if self._present or self._asking:
            self._show(why.format(place), "yellow")
        else:
            self._offer_to_call(why.format(place))

    def _see_who_enters(self) -> None:
        for peer, until_s in list(self._entering.items()):
            state = self._state(peer)
            if state == ConnectionState.CONNECTED:
                del self._entering[peer]
                if peer not in self._present:
                    self.add(peer, shows_proof=False)
            elif state == ConnectionState.NONE or time.monotonic() > until_s:
                del self._entering[peer]
                self._net.close_session_with_user(peer)
                self._show(_NOT_COME.format(name_of(peer)), "yellow")

    def _see_paths(self) -> None:
        for peer, name in self._present.items():
            if (news := self._paths[peer].sentence(name, self._connection(peer))) is not None:
                self._show(news)

    def _see_who_left(self) -> None:
        for peer, name in list(self._present.items()):
            if self._state(peer) in (ConnectionState.NONE, ConnectionState.CONNECTING):
                was_lost = self._paths[peer].is_lost
                self._remove(peer)
                self._show(f"{name} is gone, without a word." if was_lost else f"{name} has left.", "yellow")
        while self._asking and self._state(self._asking[0].identity) == ConnectionState.NONE:
            self._show(f"{name_of(self._asking.popleft().identity)} has given up.", "yellow")
            self._ask_next()

    def _see_signaling(self) -> None:
        status = self._net.signaling_status
        if status != self._signaling:
            self._signaling = status
            self._show(status)

    def _remove(self, peer: Identity) -> str | None:
        self._paths.pop(peer, None)
        return self._present.pop(peer, None)

    def _state(self, peer: Identity) -> ConnectionState:
        return self._net.get_session_connection_info(peer, False, False).state

    def _connection(self, peer: Identity) -> ConnectionInfo | None:
        return self._net.get_session_connection_info(peer, get_status=False).connection

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
            self._takes_name = False
            first, *more = describe_request(self._asking[0])
            self._show(f"{first} wants to talk.", "bold")
            for line in (*more, "Let in? Type y or n."):
                self._show(line)

    def _handle_failed(self, event: SessionFailed) -> None:
        if self._calling is not None and event.identity == self._calling[0]:
            self._give_up_call(_why_unanswered(event))
            return
        if self._entering.pop(event.identity, None) is not None:
            self._show(_NOT_COME.format(name_of(event.identity)), "yellow")
            return
        if event.state == ConnectionState.NONE:
            # Of a session that we ended ourselves: nobody minds that our greeting did not arrive.
            return
        name = self._remove(event.identity) or name_of(event.identity)
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


def _why_unanswered(event: SessionFailed) -> str:
    """A sentence about a call that came to nothing, with a place for the name."""
    if event.state == ConnectionState.CLOSED_BY_PEER:
        return "{} has refused." if event.reason == EndReason.SESSION_CLOSED else "{} has ended the call."
    return _NO_WAY if event.reason == EndReason.MISC_P2P_RENDEZVOUS else _NO_ANSWER
