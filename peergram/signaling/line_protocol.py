"""The text protocol of the reference's example server, both ends (chapter 17.2 of the P2P protocol, `trivial_signaling_server`).

    client to server   str:alice                    the greeting: who this is
    client to server   str:bob 22c10132750a...      DESTINATION SPACE SIGNAL-IN-HEXADECIMAL
    server to client   str:alice 22c10132750a...    SOURCE SPACE SIGNAL-IN-HEXADECIMAL

Nobody proves anything: whoever says a name gets its signals, and whoever had it before is cut off (S1). It is here to meet
programs of the reference, on networks where everybody is trusted.

Lines that make no sense are skipped on both ends, as the example server may mix up the lines of two senders.
"""

from __future__ import annotations

from binascii import unhexlify
from collections import deque

from peergram.config import (
    LINE_SERVER_CLIENTS_MAX,
    LINE_SERVER_GREETING_US,
    LINE_SERVER_UNSENT_BYTES_MAX,
    SIGNAL_LINE_BYTES_MAX,
    SIGNALING_UNSENT_MAX,
)
from peergram.errors import UsageError, WireError
from peergram.identity import Identity
from peergram.timing import Deadline

_WRITE_BYTES_MAX = 65_536


def encode_line(identity: Identity, signal: bytes) -> bytes:
    """A whole line with its end. Raises UsageError for an identity whose text the protocol cannot carry."""
    return line_name(identity) + b" " + signal.hex().encode() + b"\n"


def decode_line(line: bytes) -> tuple[Identity, bytes]:
    """The identity and the signal, of at least one byte, of a line with or without its end; raises WireError."""
    name, space, payload = line.strip().partition(b" ")
    if not space:
        raise WireError("line: no space in it")
    try:
        return Identity.parse_bytes(name), unhexlify(payload)
    except ValueError as error:
        raise WireError("line: not an identity and hexadecimal digits") from error


def line_name(identity: Identity) -> bytes:
    """The text of an identity, if it can stand in a line; raises UsageError otherwise."""
    try:
        text = identity.text_bytes.decode()
    except UnicodeDecodeError:
        text = ""
    # What Python takes for white space at the ends, the example server strips.
    if not identity.is_valid or text.split() != [text] or any(char < " " or char == "\x7f" for char in text):
        raise UsageError(
            f"{identity.printable} cannot be named in the line protocol of signaling: it must be UTF-8 without spaces and control"
            " characters"
        )
    return text.encode()


class LineSplitter:
    """Cuts a byte stream into lines. A line that is too long is skipped to its end and takes no memory."""

    __slots__ = ("_is_skipping", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._is_skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends."""
        *ended, rest = data.split(b"\n")
        lines = []
        for piece in ended:
            line = self._rest + piece
            if not self._is_skipping and len(line) <= SIGNAL_LINE_BYTES_MAX:
                lines.append(line)
            self._rest, self._is_skipping = b"", False
        if self._is_skipping or len(self._rest) + len(rest) > SIGNAL_LINE_BYTES_MAX:
            self._rest, self._is_skipping = b"", True
        else:
            self._rest += rest
        return lines


class LineClientCore:
    """Our end of one service: lines that wait, lines that come. It outlives its connections; one at a time.

    While there is a connection, write what `poll_write` shows and tell `note_written` how much of it went.
    """

    def __init__(self, identity: Identity) -> None:
        """Raises UsageError if the protocol cannot carry this identity."""
        self._hello = line_name(identity) + b"\n"
        self._lines: deque[bytes] = deque()
        self._splitter = LineSplitter()
        # The line at the front may be written in part, and so may the greeting, which no other line overtakes.
        self._greeting = b""
        self._front_written = 0
        self.dropped = 0
        """Signals given up because too many waited, or because their receiver cannot be named in a line."""

    def handle_connected(self) -> None:
        """A new connection: it begins with the greeting; a line that went only in part goes again."""
        self._greeting = self._hello
        self._front_written = 0
        self._splitter = LineSplitter()

    def send(self, to: Identity, signal: bytes) -> None:
        """Queue a signal. If too many wait, the oldest is given up."""
        try:
            line = encode_line(to, signal)
        except UsageError:
            self.dropped += 1
            return
        if len(line) > SIGNAL_LINE_BYTES_MAX:
            self.dropped += 1
            return
        if len(self._lines) >= SIGNALING_UNSENT_MAX:
            # One that has been begun must be finished, or the server would read two lines as one.
            del self._lines[1 if self._front_written else 0]
            self.dropped += 1
        self._lines.append(line)

    def poll_write(self) -> bytes:
        """What the connection should be given next; b"" if nothing waits."""
        shown, shown_bytes = [], 0
        for line in self._lines:
            shown.append(line)
            shown_bytes += len(line)
            if shown_bytes >= _WRITE_BYTES_MAX:
                break
        return self._greeting + b"".join(shown)[self._front_written :]

    def note_written(self, count: int) -> None:
        """The connection took so many bytes of what `poll_write` showed."""
        of_greeting = min(count, len(self._greeting))
        self._greeting = self._greeting[of_greeting:]
        self._front_written += count - of_greeting
        while self._lines and self._front_written >= len(self._lines[0]):
            self._front_written -= len(self._lines.popleft())

    def handle_data(self, data: bytes) -> list[tuple[Identity, bytes]]:
        """The signals that `data` completes, each with the sender that the server names."""
        signals = []
        for line in self._splitter.feed(data):
            try:
                signals.append(decode_line(line))
            except WireError:
                continue
        return signals


class _Client:
    __slots__ = ("name", "splitter", "unsent")

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.splitter = LineSplitter()
        self.unsent = bytearray()


class LineServerCore:
    """The server: who is connected under which name, and what waits for whom. Connections have numbers of the caller's choice.

    After every call: write what `unsent` shows for the connections in `poll_writable`, close those of `poll_close`, re-arm the
    deadline. A connection that the server closes is forgotten at once; nothing more is said about it.
    """

    def __init__(self) -> None:
        self._clients: dict[int, _Client] = {}
        self._by_name: dict[bytes, int] = {}
        self._closing: deque[int] = deque()
        self._writable: dict[int, None] = {}
        self._greeting_until: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def named(self) -> int:
        """How many connections have said their name."""
        return len(self._by_name)

    def handle_connected(self, number: int, now_us: int) -> bool:
        """A new connection; False if there are too many already, and it should be closed."""
        if len(self._clients) >= LINE_SERVER_CLIENTS_MAX:
            return False
        self._clients[number] = _Client()
        self._greeting_until[number] = now_us + LINE_SERVER_GREETING_US
        return True

    def handle_data(self, number: int, data: bytes) -> None:
        """Bytes of a connection; harmless if it was closed meanwhile."""
        client = self._clients.get(number)
        if client is None:
            return
        for line in client.splitter.feed(data):
            if client.name is None:
                self._greet(number, client, line.strip())
            else:
                self._forward(client.name, line.strip())
            if number not in self._clients:
                return

    def handle_disconnected(self, number: int) -> None:
        """A connection is gone; harmless when repeated."""
        client = self._clients.pop(number, None)
        if client is None:
            return
        self._greeting_until.pop(number, None)
        self._writable.pop(number, None)
        if client.name is not None and self._by_name.get(client.name) == number:
            del self._by_name[client.name]

    def poll_writable(self) -> int | None:
        """A connection that has been given something to write since it was last named here."""
        number = next(iter(self._writable), None)
        if number is not None:
            del self._writable[number]
        return number

    def unsent(self, number: int) -> bytes:
        """What should be written to a connection next."""
        client = self._clients.get(number)
        return bytes(client.unsent[:_WRITE_BYTES_MAX]) if client else b""

    def note_written(self, number: int, count: int) -> None:
        """A connection took so many bytes of it."""
        client = self._clients.get(number)
        if client is not None:
            del client.unsent[:count]

    def poll_close(self) -> int | None:
        """A connection that the server has given up."""
        return self._closing.popleft() if self._closing else None

    def poll_timeout(self) -> Deadline | None:
        """When `handle_timeout` has something to do."""
        number = next(iter(self._greeting_until), None)
        return None if number is None else Deadline(self._greeting_until[number], "greeting overdue")

    def handle_timeout(self, now_us: int) -> None:
        """Give up connections that have not said who they are."""
        # All have the same time, so that they are due in the order in which they came.
        while self._greeting_until:
            number, until_us = next(iter(self._greeting_until.items()))
            if until_us > now_us:
                return
            self._give_up(number)

    def _greet(self, number: int, client: _Client, name: bytes) -> None:
        if not name or b" " in name:
            self._give_up(number)
            return
        self._greeting_until.pop(number, None)
        former = self._by_name.get(name)
        if former is not None:
            self._give_up(former)
        client.name = name
        self._by_name[name] = number

    def _forward(self, source: bytes, line: bytes) -> None:
        destination, space, payload = line.partition(b" ")
        number = self._by_name.get(destination)
        if not space or number is None:
            return
        client = self._clients[number]
        client.unsent += source + b" " + payload + b"\n"
        if len(client.unsent) > LINE_SERVER_UNSENT_BYTES_MAX:
            self._give_up(number)
        else:
            self._writable[number] = None

    def _give_up(self, number: int) -> None:
        self.handle_disconnected(number)
        self._closing.append(number)
