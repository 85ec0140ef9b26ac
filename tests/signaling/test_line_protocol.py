"""Lines of the reference's example protocol, its client and its server, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import (
    LINE_SERVER_CLIENTS_MAX,
    LINE_SERVER_GREETING_US,
    LINE_SERVER_UNSENT_BYTES_MAX,
    SIGNAL_LINE_BYTES_MAX,
    SIGNALING_UNSENT_MAX,
)
from peergram.errors import UsageError, WireError
from peergram.identity import INVALID, Identity
from peergram.signaling.line_protocol import LineClientCore, LineServerCore, LineSplitter, decode_line, encode_line

ALICE = Identity.string("alice")
BOB = Identity.string("bob")
SIGNAL_BYTES_MAX_IN_A_LINE = (SIGNAL_LINE_BYTES_MAX - len("str:bob \n")) // 2


# Lines


def test_a_line_is_a_name_a_space_and_lower_case_hexadecimal() -> None:
    assert encode_line(BOB, b"\x22\xc1\x01") == b"str:bob 22c101\n"
    assert encode_line(Identity.string("é"), b"") == "str:é \n".encode()


@pytest.mark.parametrize("line", [b"str:bob 22c101", b"str:bob 22C101\n", b"  str:bob 22c101 \r\n"])
def test_lines_are_read_with_either_case_and_any_end(line: bytes) -> None:
    assert decode_line(line) == (BOB, b"\x22\xc1\x01")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"str:bob",
        b"str:bob ",
        b"str:bob 2",
        b"str:bob 2g",
        b"str:bob 22 c1",
        b"bob 22",
        b" 22",
        b"str:bob \xff\xff",
        b"\xff 22",
        b"gen: 22",
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        decode_line(line)


@pytest.mark.parametrize(
    "identity",
    [
        Identity.string("a b"),
        Identity.string("a "),
        Identity.string("a\nstr:mallory"),
        Identity.string("a\rb"),
        Identity.string("a\x01"),
        Identity.string("a\x7f"),
        Identity.string("a\x85b"),
        Identity.string(b"\xff"),
        INVALID,
    ],
    ids=lambda identity: identity.printable,
)
def test_names_that_would_break_a_line_are_refused(identity: Identity) -> None:
    with pytest.raises(UsageError, match="cannot be named in the line protocol"):
        encode_line(identity, b"x")
    with pytest.raises(UsageError):
        LineClientCore(identity)


@given(st.text(max_size=20).filter(lambda text: len(text.encode("utf-8", "replace")) <= 31), st.binary(min_size=1, max_size=50))
def test_a_name_is_refused_or_carried_unchanged(name: str, signal: bytes) -> None:
    try:
        line = encode_line(Identity.string(name), signal)
    except UsageError:
        return
    assert LineSplitter().feed(line) == [line[:-1]]
    assert decode_line(line) == (Identity.string(name), signal)


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)), st.data())
def test_a_stream_may_be_cut_anywhere(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found = LineSplitter(), []
    while stream:
        count = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:count])
        stream = stream[count:]
    assert found == lines


@pytest.mark.parametrize("piece_bytes", [1_000, SIGNAL_LINE_BYTES_MAX, 10 * SIGNAL_LINE_BYTES_MAX])
def test_a_line_that_is_too_long_is_skipped_and_the_next_one_is_read(piece_bytes: int) -> None:
    longest, longer = b"a" * SIGNAL_LINE_BYTES_MAX, b"b" * (SIGNAL_LINE_BYTES_MAX + 1)
    stream = b"\n".join([longest, longer, b"c" * 100_000, b"short", b""])
    splitter, found = LineSplitter(), []
    for start in range(0, len(stream), piece_bytes):
        found += splitter.feed(stream[start : start + piece_bytes])
    assert found == [longest, b"short"]


# The client


def connected(identity: Identity = ALICE) -> LineClientCore:
    core = LineClientCore(identity)
    core.handle_connected()
    written = core.poll_write()
    core.note_written(len(written))
    return core


def test_a_connection_begins_with_the_greeting_and_goes_on_with_what_waits() -> None:
    core = LineClientCore(ALICE)
    core.send(BOB, b"\x01")
    core.handle_connected()
    assert core.poll_write() == b"str:alice\nstr:bob 01\n"
    core.note_written(len(core.poll_write()))
    assert core.poll_write() == b""
    core.send(BOB, b"\x02")
    assert core.poll_write() == b"str:bob 02\n"


def test_a_connection_may_take_bytes_one_by_one() -> None:
    core = LineClientCore(ALICE)
    core.send(BOB, b"\x01")
    core.send(BOB, b"\x02")
    core.handle_connected()
    written = b""
    while waiting := core.poll_write():
        written += waiting[:1]
        core.note_written(1)
    assert written == b"str:alice\nstr:bob 01\nstr:bob 02\n"


def test_a_line_that_went_in_part_goes_again_on_the_next_connection() -> None:
    core = connected()
    core.send(BOB, b"\x01")
    core.send(BOB, b"\x02")
    core.note_written(len(b"str:bob 01\nstr:b"))
    core.handle_connected()
    assert core.poll_write() == b"str:alice\nstr:bob 02\n"


def test_the_oldest_signal_gives_way_when_too_many_wait() -> None:
    core = LineClientCore(ALICE)
    for number in range(SIGNALING_UNSENT_MAX + 3):
        core.send(BOB, bytes((number,)))
    core.handle_connected()
    assert core.poll_write().split()[2::2] == [b"%02x" % number for number in range(3, SIGNALING_UNSENT_MAX + 3)]
    assert core.dropped == 3


def test_a_line_that_has_begun_is_finished_even_when_too_many_wait() -> None:
    core = connected()
    core.send(BOB, b"\x00")
    core.note_written(3)
    for number in range(1, SIGNALING_UNSENT_MAX + 1):
        core.send(BOB, bytes((number,)))
    assert core.poll_write().startswith(b":bob 00\nstr:bob 02\n")
    assert core.dropped == 1


def test_signals_that_no_line_can_carry_are_dropped_and_counted() -> None:
    core = connected()
    core.send(Identity.string("a b"), b"\x01")
    core.send(BOB, bytes(SIGNAL_BYTES_MAX_IN_A_LINE + 1))
    assert core.poll_write() == b""
    assert core.dropped == 2
    core.send(BOB, bytes(SIGNAL_BYTES_MAX_IN_A_LINE))
    assert len(core.poll_write()) <= SIGNAL_LINE_BYTES_MAX


def test_signals_come_with_the_sender_the_server_names_and_garbage_is_skipped() -> None:
    core = connected()
    assert core.handle_data(b"str:bob 01\ngarbage\nstr:bob 0\n\nstr:b") == [(BOB, b"\x01")]
    assert core.handle_data(b"ob 02\n") == [(BOB, b"\x02")]


def test_half_a_line_of_a_lost_connection_is_forgotten() -> None:
    core = connected()
    assert core.handle_data(b"str:bob 0") == []
    core.handle_connected()
    assert core.handle_data(b"str:bob 02\n") == [(BOB, b"\x02")]


# The server


class Server:
    """A server core whose connections take everything at once, unless they are `slow`."""

    def __init__(self) -> None:
        self.core = LineServerCore()
        self.got: dict[int, bytes] = {}
        self.closed: list[int] = []
        self.slow: set[int] = set()

    def connect(self, number: int, greeting: bytes = b"", now_us: int = 0) -> bool:
        accepted = self.core.handle_connected(number, now_us)
        self.got[number] = b""
        self.data(number, greeting)
        return accepted

    def data(self, number: int, data: bytes) -> None:
        self.core.handle_data(number, data)
        self.settle()

    def timeout(self, now_us: int) -> None:
        self.core.handle_timeout(now_us)
        self.settle()

    def settle(self) -> None:
        while (number := self.core.poll_writable()) is not None:
            if number not in self.slow:
                self.got[number] += self.core.unsent(number)
                self.core.note_written(number, len(self.core.unsent(number)))
        while (number := self.core.poll_close()) is not None:
            self.closed.append(number)


@pytest.fixture
def server() -> Server:
    """With alice on connection 1 and bob on connection 2."""
    server = Server()
    server.connect(1, b"str:alice\n")
    server.connect(2, b"str:bob\r\n")
    return server


def test_a_line_goes_to_whom_it_names_and_says_whom_it_comes_from(server: Server) -> None:
    server.data(1, b"str:bob 22c1\nstr:bob 0")
    server.data(1, b"1\r\n")
    assert server.got == {1: b"", 2: b"str:alice 22c1\nstr:alice 01\n"}


def test_a_sender_cannot_pretend_to_be_another(server: Server) -> None:
    for line in (b"str:bob str:carol 01\n", b"str:bob\tstr:carol 01\n", b"str:bob 01\rstr:carol 02\n"):
        server.data(1, line)
    *lines, rest = server.got[2].split(b"\n")
    assert rest == b""
    assert len(lines) == 2
    assert all(line.startswith(b"str:alice ") for line in lines)


def test_lines_to_nobody_and_lines_without_a_space_come_to_nothing(server: Server) -> None:
    server.data(1, b"str:carol 01\nnonsense\n\n \n")
    assert server.got == {1: b"", 2: b""}
    assert server.closed == []


def test_the_payload_is_not_looked_at(server: Server) -> None:
    server.data(1, b"str:bob \xff not hexadecimal\n")
    assert server.got[2] == b"str:alice \xff not hexadecimal\n"


def test_a_second_connection_with_the_same_name_replaces_the_first(server: Server) -> None:
    server.connect(3, b"str:bob\n")
    assert server.closed == [2]
    server.data(1, b"str:bob 01\n")
    assert (server.got[2], server.got[3]) == (b"", b"str:alice 01\n")
    server.core.handle_disconnected(2)
    server.data(2, b"str:alice 02\n")
    server.data(1, b"str:bob 03\n")
    assert server.got[3].endswith(b"str:alice 03\n")
    assert server.got[1] == b""


@pytest.mark.parametrize("greeting", [b"\n", b" \r\n", b"str:a b\n"])
def test_a_greeting_that_is_no_name_ends_the_connection(server: Server, greeting: bytes) -> None:
    server.connect(3, greeting)
    assert server.closed == [3]
    assert len(server.core) == 2


def test_who_is_gone_gets_nothing_and_is_forgotten(server: Server) -> None:
    server.core.handle_disconnected(2)
    server.core.handle_disconnected(2)
    server.data(1, b"str:bob 01\n")
    assert (server.got[2], server.closed, len(server.core)) == (b"", [], 1)
    assert server.core.unsent(2) == b""


def test_who_does_not_say_a_name_in_time_is_closed(server: Server) -> None:
    server.connect(3, b"str:car", now_us=10)
    server.connect(4, now_us=20)
    deadline = server.core.poll_timeout()
    assert deadline is not None
    assert deadline.at_us == 10 + LINE_SERVER_GREETING_US
    server.timeout(deadline.at_us - 1)
    assert server.closed == []
    server.timeout(deadline.at_us)
    assert server.closed == [3]
    server.data(4, b"str:carol\n")
    assert server.core.poll_timeout() is None


def test_who_does_not_read_is_cut_off(server: Server) -> None:
    server.slow.add(2)
    line = b"str:bob " + b"0" * 1_000 + b"\n"
    for _ in range(LINE_SERVER_UNSENT_BYTES_MAX // 1_011):
        server.data(1, line)
    assert server.closed == []
    server.data(1, line)
    assert server.closed == [2]
    server.data(1, line)
    assert (len(server.core), server.closed) == (1, [2])


def test_a_server_that_is_full_refuses_others_and_keeps_whom_it_has() -> None:
    server = Server()
    for number in range(LINE_SERVER_CLIENTS_MAX):
        assert server.connect(number)
    assert not server.connect(LINE_SERVER_CLIENTS_MAX)
    assert len(server.core) == LINE_SERVER_CLIENTS_MAX
    server.core.handle_disconnected(5)
    assert server.connect(LINE_SERVER_CLIENTS_MAX)


def test_two_client_cores_meet_at_a_server_core() -> None:
    server, alice, bob = Server(), LineClientCore(ALICE), LineClientCore(BOB)
    for number, core in ((1, alice), (2, bob)):
        core.handle_connected()
        server.connect(number, core.poll_write())
        core.note_written(len(core.poll_write()))
    alice.send(BOB, b"\x01\x02")
    server.data(1, alice.poll_write())
    assert bob.handle_data(server.got[2]) == [(ALICE, b"\x01\x02")]
