"""Asks a real router for a port: run inside a network namespace by `test_miniupnpd`.

`python -m tests.routes.mapping_client LOCAL GATEWAY`: prints the mapped address, waits for one datagram and prints it, then gives
the port back and prints "released".
"""

from __future__ import annotations

import select
import socket
import sys
from itertools import count

from peergram.drivers.system import monotonic_us, secure_entropy
from peergram.io_requests import OpenStream
from peergram.routes.port_mapping import PortMapper


class Client:
    def __init__(self, host: str, gateway: str) -> None:
        ids = count(1)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.streams: dict[int, socket.socket] = {}
        self.payloads: list[bytes] = []
        self.gateway = gateway
        self.mapper = PortMapper(
            local=self.sock.getsockname(),
            gateway=gateway,
            entropy=secure_entropy,
            next_id=lambda: next(ids),
            now_us=monotonic_us(),
        )

    def next_payload(self) -> bytes:
        self.payloads.clear()
        while not self.payloads:
            self.turn()
        return self.payloads[0]

    def turn(self) -> None:
        mapper = self.mapper
        while (request := mapper.poll_request()) is not None:
            if isinstance(request, OpenStream):
                self.streams[request.stream_id] = socket.create_connection(request.remote, 3)
                mapper.handle_stream_opened(request.stream_id, monotonic_us())
            elif request.stream_id in self.streams:
                self.streams.pop(request.stream_id).close()
        while (transmit := mapper.poll_transmit(monotonic_us())) is not None:
            self.sock.sendto(transmit[1], transmit[0])
        while (written := mapper.poll_stream_transmit()) is not None:
            self.streams[written[0]].sendall(written[2])
        readable, _, _ = select.select([self.sock, *self.streams.values()], [], [], 0.02)
        if self.sock in readable:
            datagram, source = self.sock.recvfrom(65_536)
            is_taken = mapper.handle_datagram(source, datagram, monotonic_us())
            # A router may answer a search more than once; late answers are nothing to the mapper.
            if not is_taken and source[0] != self.gateway:
                self.payloads.append(datagram)
        for stream_id, stream in list(self.streams.items()):
            if stream in readable:
                data = stream.recv(65_536)
                if data:
                    mapper.handle_stream_data(stream_id, data, monotonic_us())
                else:
                    self.streams.pop(stream_id).close()
                    mapper.handle_stream_closed(stream_id, monotonic_us())
        deadline = mapper.poll_timeout()
        if deadline is not None and deadline.at_us <= monotonic_us():
            mapper.handle_timeout(monotonic_us())


def main() -> None:
    client = Client(sys.argv[1], sys.argv[2])
    while client.mapper.mapped is None:
        assert not client.mapper.is_useless, "the router offers nothing"
        client.turn()
    host, port = client.mapper.mapped
    print(host, port, flush=True)
    print(client.next_payload().decode(), flush=True)
    client.mapper.release(monotonic_us())
    while not client.mapper.is_gone:
        client.turn()
    print("released", flush=True)


if __name__ == "__main__":
    main()
