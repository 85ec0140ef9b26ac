"""The UDP sockets of a relay: thousands of relayed addresses, so each holds little, and each speaks batches of datagrams.

The rules are those of `drivers.udp_batch`; what one socket there remembers for itself is shared here by all.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from peergram.address import Address, canonical_address
from peergram.drivers.ipv6 import address_from_ipv6, ipv6_from_address
from peergram.drivers.udp_batch import (
    BATCHING_REFUSED,
    DATAGRAM_BYTES_LIMIT,
    RECEIVE_BYTES,
    ROUTE_REFUSED,
    grow_buffers,
    run_end,
    set_up_segmented_receiving,
    set_up_segmented_sending,
)
from peergram.wire.stun import FAMILY_IPV6

PORT_TRIES_MAX: Final = 64
"""Ports that are tried at random before there is none."""
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_CONTROL_BYTES: Final = 64
_CALL_COST_BYTES: Final = 1_024
"""What a system call counts as, so that many small packets of one socket do not keep the others waiting (E3)."""
# ip(7), ipv6(7): send with the DF bit, whatever the kernel knows of the path.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2
CAN_FORBID_FRAGMENTS: Final = sys.platform.startswith("linux")


class BatchSocket:
    """One socket. `number` is the relay id of a relayed address, or which of the ports for clients; `counters` are those of the
    whole relay."""

    __slots__ = ("_batches", "_counters", "_socket", "number")

    def __init__(self, number: int, opened: socket.socket, counters: Counter[str]) -> None:
        self.number = number
        self._socket = opened
        self._counters = counters
        self._batches = set_up_segmented_sending(opened) and set_up_segmented_receiving(opened)

    @property
    def local(self) -> Address:
        """Where it is bound."""
        host, port = self._socket.getsockname()[:2]
        return canonical_address(host, port)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def receive(self) -> dict[Address, list[bytes]]:
        """What has arrived, by source; of what the system joins to one packet, each."""
        found: dict[Any, list[bytes]] = {}
        room = RECEIVE_BYTES
        receive = self._socket.recvmsg
        while room > 0:
            try:
                data, control, _, source = receive(DATAGRAM_BYTES_LIMIT, _CONTROL_BYTES)
            except BlockingIOError:
                break
            except OSError:
                self._counters["receive_errors"] += 1
                room -= _CALL_COST_BYTES
                continue
            room -= len(data) + _CALL_COST_BYTES
            packets = found.get(source)
            if packets is None:
                packets = found[source] = []
            if control and (size := int.from_bytes(control[0][2][:4], sys.byteorder)) < len(data):
                packets += [data[at : at + size] for at in range(0, len(data), size)]
            else:
                packets.append(data)
        if found and len(next(iter(found))) > 2:
            return {address_from_ipv6(source): packets for source, packets in found.items()}
        return found

    def send(self, packets: list[bytes], peer: Address) -> None:
        """Send in order; what the kernel does not take at once is dropped."""
        target = ipv6_from_address(peer) if ":" in peer[0] else peer
        done, count = 0, len(packets)
        try:
            while done < count:
                end = run_end(packets, done) if self._batches else done + 1
                if end == done + 1:
                    self._socket.sendto(packets[done], target)
                else:
                    self._send_run(packets[done:end], target)
                done = end
        except OSError as error:
            self._counters["sends_blocked" if isinstance(error, BlockingIOError) else "send_errors"] += count - done

    def _send_run(self, run: list[bytes], target: Any) -> None:
        try:
            self._socket.sendmsg([b"".join(run)], _segment_control(len(run[0])), 0, target)
        except OSError as error:
            if error.errno not in BATCHING_REFUSED:
                raise
            # A route that does not take runs, as of packets larger than its MTU, says nothing about those of other clients.
            self._batches = error.errno in ROUTE_REFUSED
            for packet in run:
                self._socket.sendto(packet, target)

    def send_whole(self, packets: list[bytes], peer: Address) -> None:
        """Send packets that must not be fragmented."""
        is_v6 = ":" in peer[0]
        level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if is_v6 else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
        try:
            usual = self._socket.getsockopt(level, option)
            self._socket.setsockopt(level, option, _PMTUDISC_DO)
            self.send(packets, peer)
            self._socket.setsockopt(level, option, usual)
        except OSError:
            self._counters["send_errors"] += len(packets)


_CONTROLS: dict[int, list[tuple[int, int, bytes]]] = {}


def _segment_control(size: int) -> list[tuple[int, int, bytes]]:
    control = _CONTROLS.get(size)
    if control is None:
        control = _CONTROLS[size] = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", size))]
    return control


def open_relayed(
    host: str, family: int, ports: range, entropy: Callable[[int], bytes], *, even: bool = False
) -> socket.socket | None:
    """A socket at a port of `ports` that nobody can foresee (RFC 8656 §7.2); None if there is none to be had."""
    for _ in range(PORT_TRIES_MAX):
        port = ports[int.from_bytes(entropy(4), "big") % len(ports)]
        opened = open_at(host, family, port - port % 2 if even else port)
        if opened is not None:
            return opened
    return None


def open_at(host: str, family: int, port: int) -> socket.socket | None:
    """A socket at this port, None if it is taken."""
    is_v6 = family == FAMILY_IPV6
    try:
        opened = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        opened.setblocking(False)
        if is_v6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        grow_buffers(opened)
        opened.bind((host, port))
    except OSError:
        opened.close()
        return None
    return opened
