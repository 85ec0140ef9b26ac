"""The bad link: a UDP forwarder in a process of its own, with a rate, a short queue, a delay and loss in both directions.

`python -m benches.link PORT` prints its own port and then carries datagrams between whoever sends there and
127.0.0.1 at PORT. Each direction is a queue that drains at the link's rate and drops what does not fit (as a router does),
followed by the delay; loss comes before the queue, drawn from a fixed seed. The rate counts UDP payload.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import sys
import time

from benches.cases import LINK_BYTES_PER_S, LINK_DATAGRAM_BYTES_MAX, LINK_DELAY_S, LINK_LOSS, LINK_QUEUE_BYTES

_SEED = 20
_SOCKET_BUFFER_BYTES = 4 << 20
_DATAGRAM_BYTES_MAX = 65_535


class Direction:
    """One way: what leaves it when, given what comes in when."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._free_at_s = 0.0

    def leaves_at_s(self, size: int, now_s: float) -> float | None:
        """When a datagram of this size that came now comes out at the far end; None if it is lost."""
        if size > LINK_DATAGRAM_BYTES_MAX or self._random.random() < LINK_LOSS:
            return None
        starts_at_s = max(now_s, self._free_at_s)
        if (starts_at_s - now_s) * LINK_BYTES_PER_S + size > LINK_QUEUE_BYTES:
            return None
        self._free_at_s = starts_at_s + size / LINK_BYTES_PER_S
        return self._free_at_s + LINK_DELAY_S


def carry(near: socket.socket, far: socket.socket) -> None:
    """Forward for ever between whoever sent to `near` last and the peer that `far` is connected to."""
    ways = {near: (Direction(_SEED), far), far: (Direction(_SEED + 1), near)}
    under_way: list[tuple[float, int, socket.socket, bytes]] = []
    number = 0
    client: tuple[str, int] | None = None
    while True:
        wait_s = max(0.0, under_way[0][0] - time.perf_counter()) if under_way else None
        for link in select.select([near, far], [], [], wait_s)[0]:
            try:
                data, sender = link.recvfrom(_DATAGRAM_BYTES_MAX)
            except OSError:
                # The far end is not there yet; what was sent to it is lost.
                continue
            if link is near:
                client = sender
            way, out = ways[link]
            leaves_at_s = way.leaves_at_s(len(data), time.perf_counter())
            if leaves_at_s is not None:
                number += 1
                heapq.heappush(under_way, (leaves_at_s, number, out, data))
        while under_way and under_way[0][0] <= time.perf_counter():
            _, _, out, data = heapq.heappop(under_way)
            _send(out, data, client if out is near else None)


def _send(link: socket.socket, data: bytes, to: tuple[str, int] | None) -> None:
    try:
        if to is None:
            link.send(data)
        else:
            link.sendto(data, to)
    except OSError:
        return


def _udp_socket() -> socket.socket:
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
    return link


def main(target: str) -> None:
    """Until it is killed."""
    with _udp_socket() as near, _udp_socket() as far:
        near.bind(("127.0.0.1", 0))
        far.connect(("127.0.0.1", int(target)))
        print(near.getsockname()[1], flush=True)
        carry(near, far)


if __name__ == "__main__":
    main(*sys.argv[1:])
