"""One open socket of an endpoint, with the datagrams that wait for it.

When the kernel's buffer is full, datagrams queue here, in order, until the socket is writable. The queue is short and gives up
the oldest first: whatever waited longest is what its receiver has stopped waiting for, and UDP loses packets anyway.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from peergram.address import Address
from peergram.drivers.udp_batch import UdpSocket

BACKLOG_PACKETS_MAX = 1_024
"""Datagrams kept per socket while it is not writable: at most 1.3 MB."""

FRUITLESS_MAX = 16
"""A socket that is called writable this often in a row but takes nothing loses its oldest datagrams: waiting must end."""


class Watched(Protocol):
    """Something a driver waits for: always to read from it, sometimes to write to it as well."""

    @property
    def blocked(self) -> bool:
        """Whether it waits to be written to."""

    def fileno(self) -> int:
        """The descriptor to wait for."""

    def close(self) -> None:
        """Give the descriptor back."""


class DriverSocket:
    """A `UdpSocket` and its backlog; `socket_id` is what the endpoint calls it."""

    __slots__ = ("_backlog", "_backlog_packets", "_fruitless", "socket_id", "udp")

    def __init__(self, socket_id: int, udp: UdpSocket) -> None:
        self.socket_id = socket_id
        self.udp = udp
        self._backlog: deque[tuple[list[bytes], Address]] = deque()
        self._backlog_packets = 0
        self._fruitless = 0

    @property
    def blocked(self) -> bool:
        """Whether datagrams wait for the socket to become writable."""
        return bool(self._backlog)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self.udp.fileno()

    def close(self) -> None:
        """Give the port back; harmless when repeated."""
        self.udp.close()

    def send(self, packets: list[bytes], remote: Address) -> bool:
        """Send, or queue behind what waits already; returns whether the socket is blocked now."""
        if not self._backlog:
            done = self.udp.send_batch(packets, remote)
            if done == len(packets):
                return False
            packets = packets[done:]
        self._keep(packets, remote)
        return True

    def handle_writable(self) -> None:
        """Send what waits, as far as the kernel takes it."""
        self._fruitless += 1
        while self._backlog:
            packets, remote = self._backlog[0]
            done = self.udp.send_batch(packets, remote)
            if done:
                self._fruitless = 0
                self._backlog_packets -= done
            if done < len(packets):
                self._backlog[0] = (packets[done:], remote)
                if self._fruitless >= FRUITLESS_MAX:
                    self._drop_oldest()
                return
            self._backlog.popleft()

    def _keep(self, packets: list[bytes], remote: Address) -> None:
        self._backlog.append((packets, remote))
        self._backlog_packets += len(packets)
        while self._backlog_packets > BACKLOG_PACKETS_MAX:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        packets, _ = self._backlog.popleft()
        self._backlog_packets -= len(packets)
        self.udp.counters.backlog_dropped += len(packets)
