"""Deliberate defects inside the core: one rule of the protocol forgotten each, as such things happen.

Each replaces one method of the connection's parts while a run lasts. They say whether the checkers would notice the mistakes that
matter, with the real endpoint and real encryption.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peergram.connection.connection import Connection
from peergram.connection.flow import Flow
from peergram.connection.in_flight import PacketsInFlight, Settled
from peergram.connection.lanes import SendLane
from peergram.connection.liveness import Liveness
from peergram.connection.pacing import TokenBucket
from peergram.connection.receive import OK, REFUSED, Receiver
from peergram.connection.received import AcksOwed, ReplayWindow
from peergram.connection.reliable import ReliableReceiver
from peergram.connection.room import ReceiveRoom
from peergram.connection.transmit import Transmitter
from peergram.connection.unreliable import UnreliableReceiver
from peergram.sim.planted import Plant, patched
from peergram.timing import NEVER

Method = Callable[..., Any]


def _instead(replacement: Method) -> Callable[[Method], Method]:
    return lambda _original: replacement


def _ack_what_was_refused(original: Method) -> Method:
    def handle_payload(receiver: Receiver, payload: bytes, number: int, now_us: int) -> int:
        outcome = original(receiver, payload, number, now_us)
        if outcome == REFUSED:
            receiver._flow.acks.add(number, now_us)
            return OK
        return int(outcome)

    return handle_payload


def _miss_reports_of_loss(original: Method) -> Method:
    def settle(in_flight: PacketsInFlight, latest: int, blocks: list[tuple[int, int]]) -> Settled:
        whole: Settled = original(in_flight, latest, blocks)
        return Settled(whole.acked + whole.lost, [], whole.revived, whole.newest)

    return settle


def _merge_islands_one_off(original: Method) -> Method:
    def insert_island(stream: ReliableReceiver, begin: int, data: bytes) -> None:
        original(stream, begin, data[:-1] if len(data) > 1 else data)

    return insert_island


def _report_one_too_many(original: Method) -> Method:
    def add(acks: AcksOwed, number: int, now_us: int) -> None:
        original(acks, number, now_us)
        if number == acks.top and number % 7 == 0:
            run = acks._runs[-1]
            run.begin -= run.begin > acks.stop_waiting + 1 and len(acks._runs) > 1

    return add


def _forget_what_was_partly_sent(original: Method) -> Method:
    def handle_acked(lane: SendLane, segment: Any) -> None:
        original(lane, segment)
        lane.messages_unacked.clear()

    return handle_acked


PLANTED_DEEP: dict[str, Plant] = {
    "ack what was refused": patched(Receiver, "handle_payload", _ack_what_was_refused),
    "miss reports of loss": patched(PacketsInFlight, "settle", _miss_reports_of_loss),
    "never send again": patched(Flow, "send_again", _instead(lambda flow, segment: None)),
    "no replay check": patched(ReplayWindow, "is_new", _instead(lambda window, number: number > 0)),
    "islands one byte short": patched(ReliableReceiver, "_insert_island", _merge_islands_one_off),
    "report one too many": patched(AcksOwed, "add", _report_one_too_many),
    "forget what is unconfirmed": patched(SendLane, "handle_acked", _forget_what_was_partly_sent),
    "pieces of different messages joined": patched(
        UnreliableReceiver, "add", lambda original: lambda store, number, *rest: original(store, 1, *rest)
    ),
    "never probe": patched(Transmitter, "handle_timeout", _instead(lambda transmitter, now_us: None)),
    "bucket never empty": patched(TokenBucket, "fill", _instead(lambda bucket, rate, now_us: setattr(bucket, "tokens", 1e6))),
    "never lost": patched(Liveness, "is_lost", _instead(lambda liveness, now_us: False)),
    "room without end": patched(ReceiveRoom, "add_unread", _instead(lambda room, messages, charge_bytes: None)),
    "goodbye without data": patched(
        Connection, "resume_delivery", _instead(lambda connection, now_us: connection.discard_received())
    ),
    "probe timer stuck": patched(Transmitter, "poll_timeout", lambda original: _late(original)),
}


def _late(original: Method) -> Method:
    """Acks and data are due, and nobody is told."""

    def poll_timeout(transmitter: Transmitter, now_us: int) -> Any:
        deadline = original(transmitter, now_us)
        return deadline._replace(at_us=NEVER) if deadline.reason == "ack" else deadline

    return poll_timeout
