"""The relay with its sockets: coturn's own clients, limits of the process, the traps of R1, its end."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import re
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peergram import config as limits
from peergram.address import Address
from peergram.drivers.system import has_family
from peergram.errors import AddressInUseError
from peergram.io_requests import InterfaceAddress
from peergram.servers import relay_run
from peergram.servers.relay_access import RelayAccess, password_for, temporary_name
from peergram.servers.relay_quotas import RelayQuotas
from peergram.servers.relay_run import RelayServer, RelaySettings
from peergram.servers.relay_sockets import BatchSocket
from peergram.servers.tls_files import own_tls
from peergram.wire.stun import (
    EVEN_PORT_RESERVE,
    Class,
    Method,
    StunMessage,
    StunStream,
    decode_channel_data,
    decode_stun,
    encode_channel_data,
    encode_stun,
    long_term_key,
)
from tests.lab import SOAK
from tests.servers.processes import ROOT

LOOPBACK = "127.0.0.1"
ACCESS = RelayAccess(user=b"ann", password=b"secret", secret=b"of-this-relay")
NO_QUOTAS = RelayQuotas(identity_bytes_per_s=0, network_bytes_per_s=0, total_bytes_per_s=0)


@contextmanager
def running(**settings: Any) -> Iterator[RelayServer]:
    settings = {"binds": ((LOOPBACK, 0),), "access": ACCESS, "allow_loopback": True, **settings}
    server = RelayServer(RelaySettings(**settings))
    server.start()
    try:
        yield server
    finally:
        server.close()


def wait_for(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    until_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until_s, "it takes too long"
        time.sleep(0.005)


class Caller:
    """An allocation over a socket of its own, by UDP or TCP."""

    def __init__(
        self, server: Address, *, tcp: bool = False, username: bytes = b"ann", password: bytes = b"secret", **attributes: Any
    ) -> None:
        _callers.append(self)
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.connect(server)
        self._stream = StunStream()
        self._frames: list[bytes] = []
        self._is_tcp = tcp
        self._username, self._key = username, long_term_key(username, b"peergram", password)
        self._nonce: bytes | None = None
        self._number = 0
        self.allocated = self.ask(Method.ALLOCATE, **{"requested_transport": 17, **attributes})

    def ask(self, method: int, **attributes: Any) -> StunMessage:
        while True:
            self._number += 1
            message = StunMessage(method, Class.REQUEST, self._number.to_bytes(12, "big"), **attributes)
            if self._nonce is not None:
                message.username, message.realm, message.nonce = self._username, b"peergram", self._nonce
            answer = self._exchange(encode_stun(message, integrity_key=self._key if self._nonce is not None else None))
            if answer.error_code not in (401, 438) or (self._nonce is not None and answer.error_code == 401):
                return answer
            self._nonce = answer.nonce

    def _exchange(self, request: bytes) -> StunMessage:
        """Asked again where nobody answers: one host has so many errors a second and no more."""
        for wait_s in (0.5, 1.0, 2.0, 4.0):
            self.socket.settimeout(5 if self._is_tcp else wait_s)
            try:
                self.socket.send(request)
                return decode_stun(self.receive())
            except TimeoutError:
                continue
            finally:
                self.socket.settimeout(5)
        raise AssertionError("the relay does not answer")

    def receive(self) -> bytes:
        while not self._frames:
            data = self.socket.recv(65_536)
            assert data, "the relay closed the stream"
            self._frames += self._stream.handle_data(data) if self._is_tcp else [data]
        return self._frames.pop(0)

    def close(self) -> None:
        self.socket.close()


_callers: list[Caller] = []


@pytest.fixture(autouse=True)
def no_caller_stays() -> Iterator[None]:
    yield
    while _callers:
        _callers.pop().close()


def named_caller(server: Address, identity: str) -> Caller:
    """With a name that ends."""
    name = temporary_name(identity, int(time.time()) + 600)
    return Caller(server, username=name, password=password_for(b"of-this-relay", name))


def peer_socket() -> socket.socket:
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind((LOOPBACK, 0))
    peer.settimeout(5)
    return peer


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_it_forwards_both_ways(tcp: bool) -> None:
    with running() as server, peer_socket() as peer:
        caller = Caller(server.addresses[0], tcp=tcp)
        assert caller.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[peer.getsockname()]).error_code is None
        for size in (0, 1, 2, 3, 1_200, 9_000):
            caller.socket.send(encode_channel_data(0x4000, bytes(size), padded=tcp))
            data, relayed = peer.recvfrom(65_536)
            assert data == bytes(size)
            assert relayed == caller.allocated.xor_relayed_address
            peer.sendto(b"\x01" * size, relayed)
            assert decode_channel_data(caller.receive()) == (0x4000, b"\x01" * size)


def test_runs_of_packets_arrive_in_order_and_whole() -> None:
    with running(quotas=NO_QUOTAS) as server, peer_socket() as peer:
        caller = Caller(server.addresses[0])
        caller.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[peer.getsockname()])
        packets = [number.to_bytes(4, "big") * (25 if number % 50 else 7) for number in range(1_000)]
        found = []
        for start in range(0, 1_000, 20):
            for packet in packets[start : start + 20]:
                caller.socket.send(encode_channel_data(0x4000, packet))
            found += [peer.recv(2_000) for _ in range(20)]
        assert found == packets


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="batches are of Linux")
def test_a_client_whose_route_takes_no_runs_costs_the_others_none() -> None:
    refused = [0]

    class Counting(socket.socket):
        def sendmsg(self, *words: Any) -> int:
            if words[3][0] == "127.0.0.2":
                refused[0] += 1
                raise OSError(errno.EINVAL, "the segments are larger than what this route takes")
            return super().sendmsg(*words)

    opened = Counting(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((LOOPBACK, 0))
    opened.setblocking(False)
    sender = BatchSocket(1, opened, Counter())
    with peer_socket() as near:
        sender.send([bytes(100)] * 5, ("127.0.0.2", near.getsockname()[1]))
        for _ in range(2):
            sender.send([bytes(100)] * 5, near.getsockname())
        assert [len(near.recv(1_000)) for _ in range(10)] == [100] * 10
        sender.send([bytes(100)] * 5, ("127.0.0.2", near.getsockname()[1]))
    assert refused[0] == 2, "runs are tried again"
    sender.close()


def test_stun_is_answered_at_its_port_by_udp_and_tcp() -> None:
    question = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, bytes(12)))
    with running() as server:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as asker:
                asker.settimeout(5)
                asker.connect(server.addresses[0])
                asker.send(question)
                assert decode_stun(asker.recv(1_000)).xor_mapped_address == asker.getsockname()


@pytest.mark.skipif(not has_family(6), reason="no IPv6 on this machine")
def test_one_allocation_has_addresses_of_both_families_and_each_forwards() -> None:
    with running(binds=((LOOPBACK, 0), ("::1", 0))) as server, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind(("::1", 0))
        peer.settimeout(5)
        caller = Caller(server.addresses[1], additional_address_family=2)
        assert caller.allocated.xor_relayed_address is not None
        assert caller.allocated.xor_relayed_address_2 is not None
        assert (caller.allocated.xor_relayed_address[0], caller.allocated.xor_relayed_address_2[0]) == (LOOPBACK, "::1")
        remote: Address = peer.getsockname()[:2]
        caller.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[remote])
        send = StunMessage(Method.SEND, Class.INDICATION, bytes(12), xor_peer_addresses=[remote], data=b"six", dont_fragment=True)
        caller.socket.send(encode_stun(send))
        data, source = peer.recvfrom(100)
        assert (data, source[:2]) == (b"six", caller.allocated.xor_relayed_address_2)
        peer.sendto(b"back", source)
        answer = decode_stun(caller.receive())
        assert (answer.data, answer.xor_peer_addresses) == (b"back", [remote])


def test_relayed_ports_are_those_that_were_given_even_where_asked_for() -> None:
    with running(ports=range(50_100, 50_120)) as server:
        pair = Caller(server.addresses[0], even_port=0x80)
        assert pair.allocated.xor_relayed_address is not None
        port = pair.allocated.xor_relayed_address[1]
        assert port % 2 == 0
        other = Caller(server.addresses[0], reservation_token=pair.allocated.reservation_token)
        assert other.allocated.xor_relayed_address == (LOOPBACK, port + 1)
        callers = [pair, other]
        while callers[-1].allocated.error_code is None:
            callers.append(named_caller(server.addresses[0], f"i{len(callers)}"))
        assert callers[-1].allocated.error_code == 508
        assert len(callers) <= 21


def test_the_end_of_a_stream_gives_its_allocation_back() -> None:
    with running() as server:
        caller = Caller(server.addresses[0], tcp=True)
        assert server.allocations == 1
        caller.close()
        wait_for(lambda: server.allocations == 0)
        wait_for(lambda: "peergram_relay_sockets 0" in server.metrics())


def test_streams_without_an_allocation_are_closed_and_others_stay() -> None:
    with running(stream_alone_us=200_000) as server:
        caller = Caller(server.addresses[0], tcp=True)
        with socket.create_connection(server.addresses[0]) as silent:
            silent.settimeout(5)
            assert silent.recv(1) == b""
        assert caller.ask(Method.REFRESH).error_code is None


@pytest.mark.parametrize("quotas", [RelayQuotas(streams_max=3), RelayQuotas(streams_per_host_max=3)], ids=["in all", "one host"])
def test_so_many_streams_and_no_more(quotas: RelayQuotas) -> None:
    with running(quotas=quotas) as server:
        held = [socket.create_connection(server.addresses[0]) for _ in range(3)]
        wait_for(lambda: "peergram_relay_streams 3" in server.metrics())
        with socket.create_connection(server.addresses[0]) as more:
            more.settimeout(5)
            assert more.recv(1) == b""
        held.pop().close()
        wait_for(lambda: "peergram_relay_streams 2" in server.metrics())
        assert Caller(server.addresses[0], tcp=True).allocated.error_code is None
        for each in held:
            each.close()


@pytest.mark.skipif(not has_family(6), reason="needs IPv6")
def test_a_network_of_64_bits_has_as_many_streams_as_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1)
    monkeypatch.setattr(relay_run, "address_from_ipv6", lambda name: (f"2001:db8::{next(numbers):x}", name[1]))
    with running(binds=(("::1", 0),), quotas=RelayQuotas(streams_per_host_max=3)) as server:
        held = [socket.create_connection(server.addresses[0]) for _ in range(4)]
        held[3].settimeout(5)
        assert held[3].recv(1) == b""
        for each in held:
            each.close()
        wait_for(lambda: "peergram_relay_streams 0" in server.metrics())
        with socket.create_connection(server.addresses[0]):
            wait_for(lambda: "peergram_relay_streams 1" in server.metrics())


def test_who_comes_and_goes_again_has_so_many_streams_a_second_and_no_more() -> None:
    with running() as server:
        for _ in range(limits.TURN_STREAMS_PER_HOST_BURST + 100):
            socket.create_connection(server.addresses[0]).close()
        wait_for(
            lambda: server.counters["streams"] + server.counters["streams_refused"] >= limits.TURN_STREAMS_PER_HOST_BURST + 100
        )
        assert server.counters["streams_refused"] > 0
        wait_for(lambda: socket_is_taken(server.addresses[0]))


def socket_is_taken(server: Address) -> bool:
    with socket.create_connection(server) as stream:
        stream.settimeout(0.05)
        try:
            stream.recv(1)
        except TimeoutError:
            return True
        return False


def test_a_port_whose_next_one_is_never_free_is_said_and_others_go_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        port = 0
        while port % 2 == 0:
            taken.close()
            taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            taken.bind((LOOPBACK, 0))
            port = taken.getsockname()[1]
        with running(ports=range(port - 1, port + 1)) as server:
            assert Caller(server.addresses[0], even_port=EVEN_PORT_RESERVE).allocated.error_code == 508
            assert Caller(server.addresses[0], even_port=0).allocated.xor_relayed_address == (LOOPBACK, port - 1)
        taken.close()


def test_a_defect_of_its_timers_ends_nobodys_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server:
        caller = Caller(server.addresses[0])

        def fail(now_us: int) -> None:
            raise KeyError(now_us)

        monkeypatch.setattr(server.core, "handle_timeout", fail)
        wait_for(lambda: server.counters["failures"] > 1)
        assert caller.ask(Method.REFRESH).error_code is None


def test_a_new_certificate_is_shown_to_the_next_stream(tmp_path: Path) -> None:
    old, new = own_tls(tmp_path / "old"), own_tls(tmp_path / "new")
    with running(tls=old.context) as server:
        seen = []
        for tls in (old, new):
            server.replace_tls(tls.context)
            client = ssl.create_default_context()
            client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
            with socket.create_connection(server.addresses[0]) as raw, client.wrap_socket(raw) as stream:
                seen.append(hashlib.sha256(stream.getpeercert(True) or b"").digest())
        assert seen == [old.fingerprint, new.fingerprint]


def test_a_slow_reader_does_not_hold_up_others() -> None:
    with running(quotas=NO_QUOTAS) as server, peer_socket() as peer:
        slow, quick = Caller(server.addresses[0], tcp=True), Caller(server.addresses[0])
        for caller in (slow, quick):
            caller.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[peer.getsockname()])
        assert slow.allocated.xor_relayed_address is not None
        assert quick.allocated.xor_relayed_address is not None
        for number in range(12_000):
            peer.sendto(bytes(1_200), slow.allocated.xor_relayed_address)
            if number % 100 == 0:
                peer.sendto(number.to_bytes(4, "big"), quick.allocated.xor_relayed_address)
                assert decode_channel_data(quick.receive()) == (0x4000, number.to_bytes(4, "big"))
        slow.close()
        wait_for(lambda: server.counters["stream_packets_dropped"] > 0)


def test_a_relay_that_drains_refuses_and_ends_in_time() -> None:
    with running() as server:
        caller = Caller(server.addresses[0])
        server.drain(1.0)
        assert Caller(server.addresses[0]).allocated.error_code == 508
        assert caller.ask(Method.REFRESH).lifetime_s == 1
        wait_for(lambda: server.allocations == 0)


def test_new_passwords_count_from_the_next_request_on() -> None:
    with running() as server:
        caller = Caller(server.addresses[0])
        server.replace_access(RelayAccess(user=b"ann", password=b"another"))
        wait_for(lambda: Caller(server.addresses[0], password=b"another").allocated.error_code is None)
        assert caller.ask(Method.REFRESH).error_code == 401


def test_an_address_that_the_machine_has_got_meanwhile_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TURN_OWN_ADDRESSES_US", 0)
    with running(binds=(("127.0.0.1", 0),)) as server:
        caller = Caller(server.addresses[0])
        peers = [("198.51.100.77", 9)]
        assert caller.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=peers).error_code is None
        monkeypatch.setattr(relay_run, "list_interfaces", lambda: [InterfaceAddress("198.51.100.77", 24, "eth0", False)])
        wait_for(lambda: caller.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=peers).error_code == 403)


def test_a_port_in_use_is_said_and_nothing_stays_open() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        server = RelayServer(RelaySettings(binds=((LOOPBACK, 0), taken.getsockname()), access=ACCESS))
        with pytest.raises(AddressInUseError, match=r"TCP address 127\.0\.0\.1"):
            server.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(server.addresses[0])


@contextmanager
def process(*words: str, files: int | None = None) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """The relay as a program, with so many descriptors at most."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((LOOPBACK, 0))
        address: Address = probe.getsockname()
    command = [sys.executable, "-m", "tests.servers.relay_process", f"--bind={LOOPBACK}:{address[1]}", "--allow-loopback-peers"]
    command += ["--user=ann", "--password=secret", "--secret=of-this-relay", *words]
    limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
    relay = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=limit)
    assert relay.stdout is not None
    try:
        assert relay.stdout.readline() == "listening\n"
        yield relay, address
    finally:
        relay.terminate()
        relay.wait(10)
        relay.stdout.close()


def test_with_few_descriptors_it_has_few_allocations_and_goes_on() -> None:
    with process(files=60) as (relay, address):
        callers: list[Caller] = []
        while not callers or callers[-1].allocated.error_code is None:
            callers.append(named_caller(address, f"i{len(callers)}"))
        assert callers[-1].allocated.error_code == 508
        assert len(callers) == 31, "half of them"
        streams = [socket.create_connection(address) for _ in range(60)]
        assert callers[0].ask(Method.REFRESH).error_code is None
        for stream in streams:
            stream.close()
        assert relay.poll() is None


@pytest.mark.skipif(shutil.which("unshare") is None or sys.platform != "linux", reason="needs network namespaces")
def test_of_twelve_traps_inside_none_catches_anything() -> None:
    """Every spelling of every address, with permission asked for, without, and by channel, over UDP and TCP (R1). The second run
    allows two networks, and the traps in these, and only they, do catch."""
    for allowed in ([], ["10.0.0.0/8", "fd00::/8"]):
        done = subprocess.run(
            ["unshare", "-n", sys.executable, "-m", "tests.servers.trap_world", *allowed],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        if "unshare failed" in done.stderr:
            pytest.skip("needs a machine that lets root make network namespaces")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["tried"] >= 60
        assert len(result["caught"]) == 12
        assert {host for host, count in result["caught"].items() if count} == ({"10.1.2.3", "fd12:3456::1"} if allowed else set())


# coturn's own clients

NEEDS_TOOLS = pytest.mark.skipif(shutil.which("turnutils_uclient") is None, reason="coturn's turnutils are not installed")


@NEEDS_TOOLS
def test_the_stun_client_of_coturn_learns_its_address() -> None:
    with running() as server:
        host, port = server.addresses[0]
        done = subprocess.run(["turnutils_stunclient", "-p", str(port), host], capture_output=True, text=True, timeout=30)
        assert "UDP reflexive addr: 127.0.0.1:" in done.stdout


@NEEDS_TOOLS
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-t", "-S"),
        ("-y", "-s"),
        ("-W", "of-this-relay"),
        *([("-s",), ("-D",), ("-t",), ("-t", "-s"), ("-c",), ("-y",), ("-y", "-t"), ("-x",)] if SOAK else []),
    ],
    ids=lambda words: " ".join(words) or "plain",
)
def test_the_turn_client_of_coturn_loses_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    """By UDP, TCP and TLS, by channel and by Send indication, with pairs of ports, two clients to each other, names that end, and
    IPv6 relayed addresses where there are any."""
    if "-x" in words and not has_family(6):
        pytest.skip("no IPv6 on this machine")
    binds = ((LOOPBACK, 0), ("::1", 0)) if "-x" in words else ((LOOPBACK, 0),)
    with running(binds=binds, tls=own_tls(tmp_path).context, quotas=NO_QUOTAS) as server:
        host, port = server.addresses[0]
        peer: subprocess.Popen[bytes] | None = None
        command = ["turnutils_uclient", "-u", "ann", "-p", str(port), "-n", "30", "-m", "2", "-l", "171", "-z", "10", *words]
        if "-W" not in words:
            command += ["-w", "secret"]
        if "-y" not in words:
            at = "::1" if "-x" in words else LOOPBACK
            with socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind((at, 0))
                peer_port = probe.getsockname()[1]
            peer = subprocess.Popen(
                ["turnutils_peer", "-L", at, "-p", str(peer_port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(0.2)
            command += ["-e", at, "-r", str(peer_port)]
        try:
            done = subprocess.run([*command, host], capture_output=True, text=True, timeout=40)
        finally:
            if peer is not None:
                peer.kill()
                peer.wait()
        said = done.stdout + done.stderr
        lost = re.search(r"Total lost packets (\d+) ", said)
        assert lost is not None, said[-1_500:]
        assert lost[1] == "0", said[-1_500:]
        assert "tot_recv_msgs=0," not in said.splitlines()[-6], said[-1_500:]


@pytest.mark.skipif(not SOAK, reason="a minute of load, which wants the machine for itself: set PEERGRAM_SOAK=1")
def test_a_flood_for_allocations_loses_nothing_of_a_session_and_costs_bounded_memory() -> None:
    """R4: 5 000 requests a second for 20 s, signed and of many identities, beside a session of 50 packets a second."""
    with process("--per-host=128") as (relay, address), peer_socket() as peer:
        friend = Caller(address)
        friend.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[peer.getsockname()])
        before = rss_kib(relay.pid)
        nonce = decode_stun(_ask_plainly(address)).nonce
        evil = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        evil.setblocking(False)
        sent = arrived = 0
        peer.settimeout(0.5)
        begin_s = time.monotonic()
        number = 0
        while (now_s := time.monotonic()) - begin_s < 20:
            while number < (now_s - begin_s) * 5_000:
                if number % 100 == 0:
                    evil.close()
                    evil = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    evil.setblocking(False)
                name = temporary_name(f"evil{number % 1_000}", int(time.time()) + 60)
                message = StunMessage(Method.ALLOCATE, Class.REQUEST, number.to_bytes(12, "big"), requested_transport=17)
                message.username, message.realm, message.nonce = name, b"peergram", nonce
                key = long_term_key(name, b"peergram", password_for(b"of-this-relay", name))
                evil.sendto(encode_stun(message, integrity_key=key), address)
                number += 1
            if sent < (now_s - begin_s) * 50:
                friend.socket.send(encode_channel_data(0x4000, sent.to_bytes(4, "big")))
                sent += 1
                arrived += peer.recv(100) == (sent - 1).to_bytes(4, "big")
        grown_kib = rss_kib(relay.pid) - before
        print(f"\n{number} requests in 20 s, session {arrived} of {sent}, memory grown by {grown_kib} KiB")
        assert arrived == sent
        assert grown_kib <= 32 * 1_024
        evil.close()


@pytest.mark.skipif(not SOAK, reason="load, which wants the machine for itself: set PEERGRAM_SOAK=1")
def test_with_real_sockets_too_the_greedy_do_not_starve_the_polite() -> None:
    """R3: 100 who send 1 MB a second each through a relay that forwards 20, beside 10 who send 256 kbit/s, 200 bytes a packet."""
    with process("--identity-rate=4000000", "--total-rate=20000000") as (_, address), peer_socket() as sink:
        callers = [named_caller(address, f"i{number}") for number in range(110)]
        peers = [sink] * 100 + [peer_socket() for _ in range(10)]
        for caller, peer in zip(callers, peers, strict=True):
            caller.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[peer.getsockname()])
            peer.setblocking(False)
        burst = [encode_channel_data(0x4000, bytes(1_000))] * 30
        runs = b"".join(burst)
        small = encode_channel_data(0x4000, bytes(200))
        greedy, polite = [0] * 100, [0] * 10
        arrived = [0] * 10
        begin_s = time.monotonic()
        while (past_s := time.monotonic() - begin_s) < 20:
            for number in range(100):
                if greedy[number] < past_s * 1_000:
                    callers[number].socket.sendmsg([runs], [(17, 103, struct.pack("=H", 1_004))])
                    greedy[number] += 30
            for number in range(10):
                while polite[number] < past_s * 160:
                    callers[100 + number].socket.send(small)
                    polite[number] += 1
                arrived[number] += received(peers[100 + number])
            received(sink)
        time.sleep(0.3)
        shares = [(arrived[number] + received(peers[100 + number])) / polite[number] for number in range(10)]
        for peer in peers[100:]:
            peer.close()
        print(f"\n{sum(greedy) / 20:.0f} greedy packets/s; the polite got {min(shares):.1%} at least of {sum(polite) / 20:.0f}/s")
        assert min(greedy) >= 15_000, "so much was asked for"
        assert min(shares) >= 0.95


def received(peer: socket.socket) -> int:
    """How many datagrams wait, and not any more."""
    count = 0
    try:
        while peer.recv(2_000):
            count += 1
    except BlockingIOError:
        return count
    return count


def rss_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def _ask_plainly(address: Address) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5)
        asker.sendto(encode_stun(StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17)), address)
        return asker.recv(1_000)
