"""Asyncio look-alikes over real loopback. Everything that waits has a deadline."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from peergram import Config
from peergram.adapters.asyncio_shim import PeerTransport, create_datagram_endpoint
from peergram.adapters.socket_shim import PeerSocket
from peergram.config import SHIM_CLOSE_US, SHIM_TRANSPORT_BYTES_MAX, SHIM_TRANSPORT_HIGH_BYTES

from .networks import WAIT_S, Town


class Recorder(asyncio.DatagramProtocol):
    """Notes whatever it is told; answers `ping`."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.datagrams: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.told.append("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.put_nowait((data, addr))
        if data == b"ping":
            self.transport.sendto(b"pong", addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 3 * WAIT_S))


def test_a_protocol_serves_peers_as_it_served_addresses(town: Town) -> None:
    async def talk() -> None:
        at_server, server = await create_datagram_endpoint(town.network("server"), Recorder, local_addr=("0.0.0.0", 5683))
        net = town.network("client", {"10.0.0.2:5683": "server"})
        at_client, client = await create_datagram_endpoint(net, Recorder, remote_addr=("10.0.0.2", 5683))
        at_client.sendto(b"ping")
        assert await client.datagrams.get() == (b"pong", ("10.0.0.2", 5683))
        data, address = await server.datagrams.get()
        assert data == b"ping"
        assert address[0].startswith("169.254.")
        assert at_client.get_extra_info("peername") == ("10.0.0.2", 5683)
        assert at_server.get_extra_info("peername") is None
        assert at_server.get_extra_info("sockname")[1] == 5683
        sock = at_server.get_extra_info("socket")
        assert isinstance(sock, socket.socket)
        assert sock.type == socket.SOCK_DGRAM
        for transport, protocol in ((at_client, client), (at_server, server)):
            assert transport.get_protocol() is protocol
            assert not transport.is_closing()
            transport.close()
            transport.close()
            assert transport.is_closing()
            assert await protocol.lost is None
            assert protocol.told == ["made", "lost"]
            transport.sendto(b"too late", "client")

    run(talk())


def test_a_loop_of_asyncio_takes_the_socket_itself(town: Town) -> None:
    """Its own transport does all it needs with what looks like a socket."""

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        sock = PeerSocket(town.messages("server"))
        sock.setblocking(False)
        transport, server = await loop.create_datagram_endpoint(Recorder, sock=sock)
        client = PeerSocket(town.messages("client"))
        client.setblocking(False)
        await loop.sock_sendto(client, b"ping", "server")
        assert (await loop.sock_recvfrom(client, 100))[0] == b"pong"
        transport.close()
        await server.lost
        client.close()

    run(talk())


def test_errors_of_peers_and_addresses_reach_the_protocol(town: Town) -> None:
    async def fail() -> None:
        net = town.network("alice", config=Config(timeout_initial_us=50_000))
        transport, alice = await create_datagram_endpoint(net, Recorder, remote_addr="nobody")
        transport.sendto(b"anybody there?")
        error = await alice.errors.get()
        assert isinstance(error, ConnectionRefusedError)
        transport.sendto(b"anybody there?", ("192.0.2.1", 53))
        assert "no peer is mapped" in str(await alice.errors.get())
        transport.sendto(bytes(70_000), "nobody")
        assert isinstance(await alice.errors.get(), OSError)
        transport.abort()
        await alice.lost

    run(fail())


def test_what_does_not_fit_is_held_up_to_a_limit_and_the_protocol_is_asked_to_pause(town: Town) -> None:
    async def flood() -> None:
        net = town.network("alice", config=Config(send_buffer_bytes=4_096))
        transport, alice = await create_datagram_endpoint(net, Recorder)
        assert transport.get_write_buffer_limits() == (SHIM_TRANSPORT_HIGH_BYTES // 4, SHIM_TRANSPORT_HIGH_BYTES)
        while transport.get_write_buffer_size() <= SHIM_TRANSPORT_HIGH_BYTES:
            assert alice.told == ["made"]
            transport.sendto(bytes(1_024), "bob")
        assert alice.told == ["made", "pause"]
        while not net.dropped:
            transport.sendto(bytes(1_024), "bob")
        assert transport.get_write_buffer_size() == SHIM_TRANSPORT_BYTES_MAX
        at_bob, bob = await create_datagram_endpoint(town.network("bob"), Recorder)
        while transport.get_write_buffer_size():
            await bob.datagrams.get()
        assert alice.told == ["made", "pause", "resume"]
        at_bob.close()
        transport.close()
        await alice.lost
        await bob.lost

    run(flood())


def test_a_full_peer_does_not_hold_up_the_others(town: Town) -> None:
    async def talk() -> None:
        net = town.network("alice", config=Config(send_buffer_bytes=4_096))
        transport, alice = await create_datagram_endpoint(net, Recorder)
        at_bob, bob = await create_datagram_endpoint(town.network("bob"), Recorder)
        while not transport.get_write_buffer_size():
            transport.sendto(bytes(1_000), "nobody")
        transport.sendto(b"first", "bob")
        transport.sendto(b"second", "bob")
        assert [(await bob.datagrams.get())[0] for _ in range(2)] == [b"first", b"second"]
        assert transport.get_write_buffer_size()
        transport.abort()
        at_bob.close()
        assert await alice.lost is None
        await bob.lost

    run(talk())


def test_limits_of_the_write_buffer_are_those_of_asyncio(town: Town) -> None:
    async def try_them() -> None:
        transport, alice = await create_datagram_endpoint(town.network("alice"), Recorder)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        with pytest.raises(ValueError, match="must be at least low"):
            transport.set_write_buffer_limits(high=1, low=2)
        transport.close()
        await alice.lost

    run(try_them())


def test_the_end_of_the_network_is_told_to_the_protocol(town: Town) -> None:
    async def end() -> None:
        net = town.network("alice")
        _, alice = await create_datagram_endpoint(net, Recorder)
        net.close()
        assert isinstance(await alice.lost, OSError)

    run(end())


def test_a_protocol_that_fails_at_the_start_leaves_nothing_behind(town: Town) -> None:
    class Broken(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            raise RuntimeError("a defect of the program")

    async def start() -> None:
        net = town.network("alice")
        with pytest.raises(RuntimeError, match="a defect of the program"):
            await create_datagram_endpoint(net, Broken)
        with pytest.raises(OSError, match="no peer is mapped"):
            await create_datagram_endpoint(net, Recorder, remote_addr=("192.0.2.1", 1))
        transport, alice = await create_datagram_endpoint(net, Recorder)
        assert isinstance(transport, PeerTransport)
        other = Recorder()
        transport.set_protocol(other)
        transport.close()
        await other.lost
        assert alice.told == ["made"]

    run(start())


def test_what_was_sent_just_before_the_transport_is_closed_leaves_and_the_loop_goes_on(town: Town) -> None:
    async def talk() -> None:
        at_server, server = await create_datagram_endpoint(town.network("server"), Recorder)
        at_client, client = await create_datagram_endpoint(town.messages("client"), Recorder, remote_addr="server")
        at_client.sendto(b"the only one")
        at_client.close()
        assert (await server.datagrams.get())[0] == b"the only one"
        assert await client.lost is None
        at_server.close()
        at_nobody, nobody = await create_datagram_endpoint(town.messages("other"), Recorder, remote_addr="nobody")
        at_nobody.sendto(b"in vain")
        at_nobody.close()
        longest_s = 0.0
        while not nobody.lost.done():
            before_s = time.monotonic()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.monotonic() - before_s)
        assert longest_s < SHIM_CLOSE_US / 2e6

    run(talk())


def test_who_aborts_waits_for_nobody(town: Town) -> None:
    async def talk() -> None:
        transport, protocol = await create_datagram_endpoint(town.messages("client"), Recorder, remote_addr="nobody")
        transport.sendto(b"in vain")
        before_s = time.monotonic()
        transport.abort()
        await protocol.lost
        assert time.monotonic() - before_s < SHIM_CLOSE_US / 2e6

    run(talk())
