"""The second process of the demonstration: waits to be called, lets the caller in, sends and receives as he does.

It talks to the first process in lines of JSON: reports on standard output, orders on standard input, whose end is its own.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from dataclasses import asdict
from random import Random
from typing import IO, Any

from peergram.cli.demo_traffic import CONFIG, HELLO_CHANNEL, Tallies, Tally, Traffic
from peergram.drivers.fake_network import FakeNetwork
from peergram.events import ConnectionState, SessionRequested
from peergram.messages import Messages

TICK_S = 0.005
REPORT_INTERVAL_S = 0.2
NAME = "bob"


class LineReader:
    """JSON lines of a pipe, read by a thread so that nobody has to wait for them."""

    def __init__(self, pipe: IO[str]) -> None:
        self.is_over = False
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def take(self) -> list[dict[str, Any]]:
        """What has come since the last time."""
        return [self._lines.get() for _ in range(self._lines.qsize())]

    def _read(self, pipe: IO[str]) -> None:
        try:
            for line in pipe:
                self._lines.put(json.loads(line))
        finally:
            self.is_over = True


def bad_network(loss: float, lag_ms: float, seed: int) -> FakeNetwork:
    """As each of both peers has it for what it sends."""
    return FakeNetwork(rng=Random(seed), loss_send=loss, lag_send_ms=lag_ms)


def snapshot(net: Messages, traffic: Traffic, network: FakeNetwork) -> dict[str, Any]:
    """Everything both processes show of a peer, as plain values."""
    status = net.get_session_connection_info(traffic.peer, get_connection=False).status
    return {
        "status": None if status is None else asdict(status),
        "sent": {name: asdict(tally) for name, tally in traffic.sent.items()},
        "received": {name: asdict(tally) for name, tally in traffic.received.items()},
        "datagrams_sent": network.sent.passed + network.sent.lost,
        "datagrams_lost": network.sent.lost,
    }


def tallies_of(fields: dict[str, dict[str, Any]]) -> Tallies:
    """What `snapshot` made of them, back."""
    return {name: Tally(**values) for name, values in fields.items()}


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    """Arguments: loss in percent, lag in milliseconds, a seed."""
    loss, lag_ms, seed = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    orders = LineReader(sys.stdin)
    network = bad_network(loss, lag_ms, seed)
    here = ("127.0.0.1", 0)
    with Messages(NAME, listen=here, key=False, trust="open", config=CONFIG, fake_network=network, signaling=None) as net:
        _say(listening=net.local_addresses[0][1])
        request = _wait_for_request(net, orders)
        if request is not None:
            net.accept_session_with_user(request.identity)
            _say(request={"identity": str(request.identity), "address": request.address, "key": request.key_fingerprint})
            _take_part(net, Traffic(net, request.identity, Random(seed)), network, orders)


def _wait_for_request(net: Messages, orders: LineReader) -> SessionRequested | None:
    requests: list[SessionRequested] = []
    net.on_session_request = requests.append
    while not requests and not orders.is_over:
        net.run_callbacks()
        time.sleep(TICK_S)
    return requests[0] if requests else None


def _take_part(net: Messages, traffic: Traffic, network: FakeNetwork, orders: LineReader) -> None:
    started_at_s: float | None = None
    is_sending = True
    report_at_s = 0.0
    while not orders.is_over:
        now_s = time.monotonic()
        is_sending = is_sending and not orders.take()
        if started_at_s is None and net.get_session_connection_info(traffic.peer).state == ConnectionState.CONNECTED:
            started_at_s = now_s
        if started_at_s is not None and is_sending:
            traffic.send_due(now_s - started_at_s)
        traffic.receive()
        net.receive_messages_on_channel(HELLO_CHANNEL, 1)
        if now_s >= report_at_s:
            report_at_s = now_s + REPORT_INTERVAL_S
            _say(report=snapshot(net, traffic, network), is_sending=is_sending)
        time.sleep(TICK_S)


if __name__ == "__main__":
    main()
