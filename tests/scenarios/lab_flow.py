"""A bulk flow on a host of a network lab, of ours or of the kernel's TCP with CUBIC; prints what it took as one line of JSON.

    python -m tests.scenarios.lab_flow receive 203.0.113.2:7000 SECONDS
    python -m tests.scenarios.lab_flow send 203.0.113.2:7000 SECONDS NAME
    python -m tests.scenarios.lab_flow tcp-receive 203.0.113.2:8000 SECONDS
    python -m tests.scenarios.lab_flow tcp-send 203.0.113.2:8000 SECONDS

Receivers count bytes per second from their start on; senders of ours tell the round trips they saw, in milliseconds.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import defaultdict

from peergram import Config, Messages, Result, SendFlags
from peergram.address import parse_address

MESSAGE_BYTES = 50_000
RELIABLE = int(SendFlags.RELIABLE)


def receive(address: str, seconds: float) -> None:
    taken: dict[str, list[int]] = defaultdict(lambda: [0] * (int(seconds) + 1))
    with Messages("receiver", listen=address, config=Config(recv_buffer_bytes=1 << 23), signaling=None) as net:
        net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
        print("{}", flush=True)
        begin_s = time.monotonic()
        while (passed_s := time.monotonic() - begin_s) < seconds:
            select.select([net], [], [], 0.1)
            net.run_callbacks()
            for message in net.receive_messages_on_channel(0, 1_000):
                taken[str(message.identity)][int(passed_s)] += len(message.payload)
        print(json.dumps(taken), flush=True)


def send(address: str, seconds: float, name: str) -> None:
    pings: list[int] = []
    with Messages(name, config=Config(send_buffer_bytes=1 << 20), signaling=None) as net:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            while net.send_message_to_user(f"ip:{address}", bytes(MESSAGE_BYTES), RELIABLE, 0) == Result.OK:
                pass
            net.run_callbacks()
            status = net.get_session_connection_info(f"ip:{address}").status
            if status is not None and status.ping_ms is not None:
                pings.append(status.ping_ms)
            time.sleep(0.02)
        print(json.dumps(pings), flush=True)


def tcp_receive(address: str, seconds: float) -> None:
    with socket.create_server(parse_address(address)) as server:
        print("{}", flush=True)
        begin_s = time.monotonic()
        taken = [0] * (int(seconds) + 1)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(1)
            while (passed_s := time.monotonic() - begin_s) < seconds:
                taken[int(passed_s)] += len(connection.recv(1 << 18))
        print(json.dumps({"tcp": taken}), flush=True)


def tcp_send(address: str, seconds: float) -> None:
    with socket.socket() as flow:
        flow.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        flow.connect(parse_address(address))
        end_s = time.monotonic() + seconds
        try:
            while time.monotonic() < end_s:
                flow.sendall(bytes(1 << 16))
        except OSError:
            return


if __name__ == "__main__":
    kind, where, how_long, *rest = sys.argv[1:]
    if kind == "receive":
        receive(where, float(how_long))
    elif kind == "send":
        send(where, float(how_long), rest[0])
    elif kind == "tcp-receive":
        tcp_receive(where, float(how_long))
    else:
        tcp_send(where, float(how_long))
