"""Socket look-alikes over real loopback. Everything that waits has a deadline."""

from __future__ import annotations

import errno
import select
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from peergram import Config, Identity, Result, SendFlags, SessionRequested, UsageError
from peergram.adapters.datagram_network import DatagramNetwork
from peergram.adapters.socket_shim import PeerSocket
from peergram.config import SHIM_DATAGRAM_BYTES_MAX, SHIM_PORT, SHIM_QUEUE_BYTES_MAX, SHIM_QUEUE_DATAGRAMS_MAX

from .networks import WAIT_S, Town, until


class Pair:
    """Alice's socket and Bob's, whose addresses for each other are written down."""

    def __init__(self, town: Town, stack: ExitStack, *, reliable: bool = False) -> None:
        self.at_alice = town.network("alice", {"10.0.0.2:7000": "bob"}, reliable=reliable)
        self.at_bob = town.network("bob", {"10.0.0.1:6000": "alice"}, reliable=reliable)
        self.alice = stack.enter_context(PeerSocket(self.at_alice))
        self.bob = stack.enter_context(PeerSocket(self.at_bob))
        for sock in (self.alice, self.bob):
            sock.settimeout(WAIT_S)

    def meet(self) -> Pair:
        self.alice.sendto(b"hello", ("10.0.0.2", 7000))
        assert self.bob.recvfrom(100) == (b"hello", ("10.0.0.1", 6000))
        self.bob.sendto(b"hello too", ("10.0.0.1", 6000))
        assert self.alice.recvfrom(100) == (b"hello too", ("10.0.0.2", 7000))
        return self


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def pair(town: Town, stack: ExitStack) -> Pair:
    return Pair(town, stack).meet()


def deliver(sock: PeerSocket, count: int, payload: bytes = b"x") -> None:
    """As if so much had come from somebody."""
    alice = sock.identity_at(("10.0.0.1", 6000))
    for _ in range(count):
        sock.deliver(payload, alice, ("10.0.0.1", 6000))


def test_datagrams_go_to_addresses_and_come_from_addresses(pair: Pair) -> None:
    assert pair.bob.identity_at(("10.0.0.1", 6000)).text == "str:alice"


def test_a_stranger_has_a_fake_address_which_answers_reach(town: Town, stack: ExitStack) -> None:
    server = stack.enter_context(PeerSocket(town.messages("server")))
    client = stack.enter_context(PeerSocket(town.messages("client")))
    for sock in (server, client):
        sock.settimeout(WAIT_S)
    client.sendto(b"ping", "server")
    payload, address = server.recvfrom(100)
    assert payload == b"ping"
    assert address[0].startswith("169.254.")
    assert address[1] == SHIM_PORT
    server.sendto(b"pong", address)
    assert client.recv(100) == b"pong"


def test_the_other_side_may_be_any_program_that_uses_messages(town: Town, stack: ExitStack) -> None:
    plain = town.messages("plain")
    sock = stack.enter_context(PeerSocket(town.network("ported")))
    sock.settimeout(WAIT_S)
    plain.send_message_to_user("ported", b"from a program")
    payload, address = sock.recvfrom(100)
    sock.sendto(payload.upper(), address)
    until(lambda: plain.wait(0.01))
    (message,) = plain.receive_messages_on_channel(0, 10)
    assert message.payload == b"FROM A PROGRAM"
    assert not message.reliable


def test_a_socket_of_the_operating_system_is_what_it_looks_like(pair: Pair) -> None:
    assert isinstance(pair.alice, socket.socket)
    assert (pair.alice.family, pair.alice.type, pair.alice.proto) == (socket.AF_INET, socket.SOCK_DGRAM, 0)
    assert pair.alice.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM
    assert "of str:alice" in repr(pair.alice)


def test_a_socket_of_ipv6_shows_ipv6_addresses(town: Town, stack: ExitStack) -> None:
    alice = stack.enter_context(PeerSocket(town.network("alice", {"10.0.0.2:7000": "bob"})))
    bob = stack.enter_context(PeerSocket(town.network("bob", {"10.0.0.1:6000": "alice"}), socket.AF_INET6))
    bob.settimeout(WAIT_S)
    alice.sendto(b"hi", ("10.0.0.2", 7000))
    assert bob.recvfrom(10) == (b"hi", ("::ffff:10.0.0.1", 6000, 0, 0))
    bob.connect(("::ffff:10.0.0.1", 6000, 0, 0))
    assert bob.getpeername() == ("::ffff:10.0.0.1", 6000, 0, 0)


def test_all_ways_to_read_give_the_same_and_cut_what_is_too_long(pair: Pair) -> None:
    deliver(pair.bob, 5, b"0123456789")
    assert pair.bob.recv(4, socket.MSG_PEEK) == b"0123"
    assert pair.bob.recv(4) == b"0123"
    assert pair.bob.recvfrom(100) == (b"0123456789", ("10.0.0.1", 6000))
    buffer = bytearray(8)
    assert pair.bob.recv_into(buffer) == 8
    assert buffer == b"01234567"
    assert pair.bob.recvfrom_into(memoryview(buffer), 3) == (3, ("10.0.0.1", 6000))
    payload, ancillary, flags, address = pair.bob.recvmsg(4)
    assert (payload, ancillary, address) == (b"0123", [], ("10.0.0.1", 6000))
    assert flags == socket.MSG_TRUNC
    pair.bob.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.bob.recv(1)


def test_all_ways_to_send_arrive(pair: Pair) -> None:
    with pytest.raises(OSError, match=r"(?i)address") as raised:
        pair.alice.send(b"to whom?")
    assert raised.value.errno == errno.EDESTADDRREQ
    pair.alice.connect(("10.0.0.2", 7000))
    assert pair.alice.getpeername() == ("10.0.0.2", 7000)
    assert pair.alice.send(b"send") == 4
    pair.alice.sendall(memoryview(b"sendall"))
    assert pair.alice.sendto(bytearray(b"sendto"), 0, ("10.0.0.2", 7000)) == 6
    assert pair.alice.sendmsg([b"send", b"msg"]) == 7
    assert sorted(pair.bob.recv(100) for _ in range(4)) == [b"send", b"sendall", b"sendmsg", b"sendto"]


def test_a_connected_socket_takes_datagrams_of_its_peer_only(town: Town, pair: Pair, stack: ExitStack) -> None:
    carol = stack.enter_context(PeerSocket(town.network("carol")))
    pair.bob.connect(("10.0.0.1", 6000))
    dropped = pair.at_bob.dropped
    carol.sendto(b"not from alice", "bob")
    until(lambda: pair.at_bob.dropped > dropped)
    pair.alice.sendto(b"from alice", "bob")
    assert pair.bob.recv(100) == b"from alice"


def test_without_blocking_nothing_waits_and_with_a_time_out_it_ends(pair: Pair) -> None:
    pair.bob.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.bob.recvfrom(100)
    pair.bob.settimeout(0.02)
    with pytest.raises(TimeoutError):
        pair.bob.recvfrom(100)
    pair.bob.settimeout(None)
    with pytest.raises(BlockingIOError):
        pair.bob.recvfrom(100, socket.MSG_DONTWAIT)


def test_it_is_readable_exactly_while_a_datagram_waits(pair: Pair) -> None:
    def readable(timeout_s: float) -> bool:
        return bool(select.select([pair.bob], [], [], timeout_s)[0])

    assert not readable(0)
    pair.alice.sendto(b"one", "bob")
    pair.alice.sendto(b"two", "bob")
    assert readable(WAIT_S)
    pair.bob.recv(100)
    assert readable(WAIT_S)
    pair.bob.recv(100)
    assert not readable(0)


def test_selectors_and_poll_watch_it(pair: Pair) -> None:
    poll = select.poll()
    poll.register(pair.bob, select.POLLIN)
    with selectors.DefaultSelector() as selector:
        selector.register(pair.bob, selectors.EVENT_READ)
        assert selector.select(0) == []
        assert poll.poll(0) == []
        deliver(pair.bob, 1)
        assert selector.select(WAIT_S)[0][0].fileobj is pair.bob
        assert poll.poll(0) == [(pair.bob.fileno(), select.POLLIN)]


def test_several_threads_may_wait_for_datagrams_and_each_gets_one(pair: Pair) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(pair.bob.recv(100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4):
        deliver(pair.bob, 1, bytes([number]))
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(found) == [b"\0", b"\1", b"\2", b"\3"]


def test_who_does_not_read_loses_what_a_full_queue_does_not_hold(pair: Pair) -> None:
    dropped = pair.at_bob.dropped
    deliver(pair.bob, SHIM_QUEUE_DATAGRAMS_MAX + 3)
    assert pair.at_bob.dropped == dropped + 3
    pair.bob.setblocking(False)
    for _ in range(SHIM_QUEUE_DATAGRAMS_MAX):
        assert pair.bob.recv(10) == b"x"
    with pytest.raises(BlockingIOError):
        pair.bob.recv(10)


def test_large_datagrams_fill_the_queue_by_their_bytes(pair: Pair) -> None:
    dropped = pair.at_bob.dropped
    deliver(pair.bob, SHIM_QUEUE_BYTES_MAX // 65_536 + 1, bytes(65_536))
    assert pair.at_bob.dropped == dropped + 1


def test_a_datagram_is_as_long_as_udp_allows(pair: Pair) -> None:
    longest = bytes(range(256)) * 255 + bytes(227)
    assert len(longest) == SHIM_DATAGRAM_BYTES_MAX
    pair.alice.sendto(longest, "bob")
    assert pair.bob.recv(65_536) == longest
    pair.alice.sendto(b"", "bob")
    assert pair.bob.recv(65_536) == b""
    with pytest.raises(OSError, match=r"(?i)too long") as raised:
        pair.alice.sendto(longest + b"!", "bob")
    assert raised.value.errno == errno.EMSGSIZE


def test_reliable_datagrams_wait_for_a_slow_reader_and_none_is_lost(town: Town, stack: ExitStack) -> None:
    pair = Pair(town, stack, reliable=True)
    count = 3 * SHIM_QUEUE_DATAGRAMS_MAX

    def send() -> None:
        for number in range(count):
            pair.alice.sendto(number.to_bytes(4, "big"), "bob")

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(0.2)
    assert [int.from_bytes(pair.bob.recv(10), "big") for _ in range(count)] == list(range(count))
    thread.join(WAIT_S)


def test_without_blocking_what_does_not_fit_the_send_buffer_is_lost_as_on_a_full_line(town: Town, stack: ExitStack) -> None:
    network = town.network("alice", config=Config(send_buffer_bytes=4_096))
    alice = stack.enter_context(PeerSocket(network))
    alice.setblocking(False)
    for _ in range(10):
        assert alice.sendto(bytes(1_000), "nobody") == 1_000
    assert network.dropped > 0


def test_reliable_or_blocking_what_does_not_fit_waits_as_long_as_the_program_says(town: Town, stack: ExitStack) -> None:
    network = town.network("alice", config=Config(send_buffer_bytes=4_096), reliable=True)
    alice = stack.enter_context(PeerSocket(network))
    alice.setblocking(False)
    while network.try_send(Identity.string("nobody"), bytes(1_000)):
        pass
    with pytest.raises(BlockingIOError):
        alice.sendto(bytes(1_000), "nobody")
    alice.settimeout(0.02)
    with pytest.raises(TimeoutError):
        alice.sendto(bytes(1_000), "nobody")
    assert network.dropped == 0


def test_who_is_not_wanted_reaches_nothing(town: Town, stack: ExitStack) -> None:
    asked: list[str] = []

    def accept(request: SessionRequested) -> bool:
        asked.append(request.identity.text)
        if request.identity.text == "str:broken":
            raise RuntimeError("a defect of the program")
        return False

    stack.enter_context(PeerSocket(town.network("choosy", accept=accept)))
    mapped = stack.enter_context(PeerSocket(town.network("private", {"10.0.0.1:1": "friend"}, accept="mapped")))
    mapped.settimeout(WAIT_S)
    for name in ("stranger", "broken", "friend"):
        sock = stack.enter_context(PeerSocket(town.network(name)))
        sock.sendto(name.encode(), "choosy")
        sock.sendto(name.encode(), "private")
    until(lambda: len(asked) == 3)
    assert mapped.recv(100) == b"friend"
    assert mapped.network.net.wait(0) is False


def test_who_is_gone_is_heard_of_by_a_connected_socket_and_the_next_send_tries_again(town: Town, stack: ExitStack) -> None:
    config = Config(timeout_initial_us=50_000)
    alice = stack.enter_context(PeerSocket(town.network("alice", config=config)))
    alice.settimeout(WAIT_S)
    alice.connect("nobody yet")
    alice.send(b"lost")
    assert select.select([alice], [], [], WAIT_S)[0]
    with pytest.raises(ConnectionRefusedError, match="str:nobody yet"):
        alice.recv(100)
    assert not select.select([alice], [], [], 0)[0]
    later = stack.enter_context(PeerSocket(town.network("nobody yet")))
    later.settimeout(WAIT_S)

    def heard() -> bool:
        alice.send(b"again")
        return bool(select.select([later], [], [], 0.05)[0])

    until(heard)
    assert later.recv(100) == b"again"


def test_a_peer_that_restarts_is_heard_again(town: Town, stack: ExitStack) -> None:
    server = stack.enter_context(PeerSocket(town.network("server")))
    server.settimeout(WAIT_S)
    for run in (b"first", b"second"):
        with PeerSocket(town.messages("client")) as client:
            client.settimeout(WAIT_S)
            client.sendto(run, "server")
            payload, address = server.recvfrom(100)
            assert payload == run
            server.sendto(b"welcome", address)
            assert client.recv(100) == b"welcome"


def test_addresses_of_nobody_are_unreachable(pair: Pair) -> None:
    with pytest.raises(OSError, match=r"no peer is mapped to \('192.0.2.1', 53\)") as raised:
        pair.alice.sendto(b"x", ("192.0.2.1", 53))
    assert raised.value.errno == errno.EHOSTUNREACH
    assert pair.alice.connect_ex(("192.0.2.1", 53)) == errno.EHOSTUNREACH
    assert pair.alice.connect_ex(("10.0.0.2", 7000)) == 0
    with pytest.raises(TypeError, match="an address is"):
        pair.alice.sendto(b"x", 53)


def test_names_and_options_behave_as_programs_expect(pair: Pair) -> None:
    alice = pair.alice
    with pytest.raises(OSError) as raised:
        alice.getpeername()
    assert raised.value.errno == errno.ENOTCONN
    assert alice.getsockname()[0].startswith("169.254.")
    alice.bind(("0.0.0.0", 9_999))
    assert alice.getsockname()[1] == 9_999
    with pytest.raises(OSError):
        alice.bind(("0.0.0.0", 9_998))
    alice.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    assert alice.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
    assert alice.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert alice.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 0
    assert alice.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR, 4) == bytes(4)
    alice.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, bytes(8))
    for call in (alice.listen, alice.accept, alice.dup, alice.detach):
        with pytest.raises(OSError):
            call()


def test_a_closed_socket_is_closed_and_its_place_is_free(pair: Pair) -> None:
    pair.alice.close()
    pair.alice.close()
    assert pair.alice.fileno() == -1
    for call in (lambda: pair.alice.recv(1), lambda: pair.alice.sendto(b"x", "bob"), pair.alice.getsockname):
        with pytest.raises(OSError) as raised:
            call()
        assert raised.value.errno == errno.EBADF
    with PeerSocket(pair.at_alice) as next_one:
        with pytest.raises(OSError, match="another socket"):
            PeerSocket(pair.at_alice)
        next_one.settimeout(WAIT_S)
        pair.bob.sendto(b"still there?", "alice")
        assert next_one.recv(100) == b"still there?"


def test_the_end_of_the_network_ends_every_wait(pair: Pair) -> None:
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(OSError):
            pair.bob.recv(100)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    pair.at_bob.close()
    thread.join(WAIT_S)
    assert ended.is_set()
    with pytest.raises(OSError) as raised:
        pair.bob.sendto(b"x", "alice")
    assert raised.value.errno == errno.ENETDOWN


def test_messages_of_other_channels_are_not_ours_and_do_not_disturb(town: Town, stack: ExitStack) -> None:
    plain = town.messages("plain")
    sock = stack.enter_context(PeerSocket(town.network("ported")))
    sock.settimeout(WAIT_S)
    plain.send_message_to_user("ported", b"elsewhere", SendFlags.RELIABLE, 5)
    plain.send_message_to_user("ported", b"here", SendFlags.RELIABLE, 0)
    assert sock.recv(100) == b"here"


def test_a_bad_policy_is_refused(town: Town) -> None:
    net = town.messages("alice")
    with pytest.raises(UsageError, match="accept: give"):
        DatagramNetwork(net, accept="anybody")  # type: ignore[arg-type]


def test_while_a_channel_that_nobody_reads_is_full_the_thread_sleeps(
    town: Town, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = town.messages("plain")
    network = town.network("ported")
    turns = 0
    run_callbacks = network.net.run_callbacks

    def count_turns() -> None:
        nonlocal turns
        turns += 1
        run_callbacks()

    monkeypatch.setattr(network.net, "run_callbacks", count_turns)
    sock = stack.enter_context(PeerSocket(network))
    sock.settimeout(WAIT_S)
    while plain.send_message_to_user("ported", bytes(4_000), SendFlags.RELIABLE, 5) is Result.OK:
        pass
    plain.send_message_to_user("ported", b"here", SendFlags.UNRELIABLE_NO_NAGLE, 0)
    assert sock.recv(100) == b"here"
    assert network.net.wait(WAIT_S), "the other channel is full"
    assert not network.net.wait(0, channel=0)
    turns = 0
    time.sleep(0.1)
    assert turns <= 1, "of which one may have been under way"


def test_what_was_sent_just_before_the_network_is_closed_still_leaves(town: Town, stack: ExitStack) -> None:
    with PeerSocket(town.network("server")) as server:
        server.settimeout(WAIT_S)
        client = PeerSocket(town.messages("client"))
        client.sendto(b"the only one", "server")
        client.close()
        assert server.recv(100) == b"the only one"


def test_closing_waits_for_nobody_who_cannot_be_reached_longer_than_agreed(town: Town) -> None:
    network = town.network("client")
    network.try_send(Identity.of("nobody"), b"in vain")
    began_s = time.monotonic()
    network.close(wait_s=0.05)
    assert 0.05 <= time.monotonic() - began_s < WAIT_S
    assert not network.has_unsent
