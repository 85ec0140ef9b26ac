"""Servers as nodes of a topology: STUN, TURN over UDP and over streams. They crash and come back, with nothing they knew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peergram.address import Address
from peergram.errors import WireError
from peergram.sim.link import Datagram
from peergram.sim.streams import Stream
from peergram.sim.topology import Interface, Topology
from peergram.sim.turn_server import Client, Sends, ToClient, TurnModel, TurnServerCore
from peergram.wire.stun import StunStream, encode_channel_data, looks_like_stun

if TYPE_CHECKING:
    from peergram.sim.world import World

STUN_PORT = 3478


class Server:
    """What listens at port 3478 of one interface on the internet: Binding requests only, unless there is a TURN model."""

    def __init__(self, topology: Topology, name: str, turn: TurnModel | None = None, *, v6: bool = False) -> None:
        self.name = name
        self.model = turn
        self.topology = topology
        self.run = -1
        self.core: TurnServerCore | None = None
        self.requests = 0
        """Messages of clients, over all runs."""
        self.streams: dict[Stream, StunStream] = {}
        self.interface = topology.attach(self, name="eth0", v6=v6)
        self.start()

    @property
    def world(self) -> World:
        """Where it stands."""
        return self.topology.world

    @property
    def host(self) -> str:
        """Its IPv4 address."""
        return self.interface.hosts[4]

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.host, STUN_PORT

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.core is not None

    # Life

    def start(self) -> None:
        """A new process, without allocations, with other nonces."""
        self.run += 1
        secret = self.world.bytes_for(f"server/{self.name}/{self.run}")
        # The steps of a TURN client at a STUN server end with an error, as they do at a real one.
        model = self.model or TurnModel(allocations_max=0)
        self.core = TurnServerCore(model, list(self.interface.hosts.values()), secret)
        self.world.note(self.name, f"starts run {self.run}")

    def crash(self, for_us: int | None = None) -> None:
        """The process is gone, its streams closed by the system; back after `for_us`, if that is given."""
        if self.core is None:
            return
        self.world.note(self.name, "crashes")
        self.core = None
        streams, self.streams = list(self.streams), {}
        for stream in streams:
            stream.close(self)
        if for_us is not None:
            self.world.after(for_us, lambda: self.start() if self.core is None else None)

    # Packets

    def carry(self, at_us: int, datagram: Datagram, interface: Interface) -> None:
        """A packet will arrive."""
        self.world.at(at_us, lambda: self._handle(datagram))

    def _handle(self, datagram: Datagram) -> None:
        if self.core is None:
            return
        source, destination, now_us = datagram.source, datagram.destination, self.world.now_us
        if destination[1] == STUN_PORT:
            self.requests += 1
            self._send(self.core.handle((source, destination), source, datagram.data, now_us))
        else:
            self._send(self.core.handle_peer(destination, source, datagram.data, now_us))

    def _send(self, sends: Sends) -> None:
        for send in sends:
            if isinstance(send, ToClient):
                self._to_client(send.client, send.data)
            else:
                self._out(Datagram(send.relayed, send.peer, send.data))

    def _to_client(self, client: Client, data: bytes) -> None:
        if isinstance(client, Stream):
            client.send(self, data if looks_like_stun(data) else _padded(data))
        else:
            assert isinstance(client, tuple), "datagram clients are pairs of addresses"
            remote, local = client
            self._out(Datagram(local, remote, data))

    def _out(self, datagram: Datagram) -> None:
        self.topology.send([self.interface], datagram)

    # Streams

    def takes_streams(self, port: int) -> bool:
        """Only a TURN server that runs does."""
        return self.core is not None and self.model is not None and port == STUN_PORT

    def stream_opened(self, stream: Stream) -> None:
        """A client has connected."""
        if self.core is None:
            stream.close(self)
        else:
            self.streams[stream] = StunStream()

    def stream_data(self, stream: Stream, data: bytes) -> None:
        """Bytes of a client."""
        frames = self.streams.get(stream)
        if frames is None:
            return
        try:
            messages = frames.handle_data(data)
        except WireError:
            self.stream_closed(stream, "no TURN")
            stream.close(self)
            return
        for message in messages:
            if self.core is not None:
                self.requests += 1
                self._send(self.core.handle(stream, stream.source, message, self.world.now_us))

    def stream_closed(self, stream: Stream, text: str) -> None:
        """The client is gone."""
        if self.streams.pop(stream, None) is not None and self.core is not None:
            self.core.forget(stream)


def _padded(channel_data: bytes) -> bytes:
    """ChannelData as it goes over a stream."""
    return encode_channel_data(int.from_bytes(channel_data[:2], "big"), channel_data[4:], padded=True)
