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
from peergram.endpoint.remotes import Remotes
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


def _forget_up_to(position_of: Callable[[SendLane], int]) -> Callable[[Method], Method]:
    """An ack confirms every message of which a byte lies below that position."""

    def replacement(original: Method) -> Method:
        def handle_acked(lane: SendLane, segment: Any) -> None:
            original(lane, segment)
            position, messages = position_of(lane), lane.messages_unacked
            while messages and messages[0][0] - messages[0][2] < position:
                messages.popleft()

        return handle_acked

    return replacement


def _ack_while_lingering(original: Method) -> Method:
    """Data that comes after closing is dropped, and acknowledged all the same."""

    def take_reliable(receiver: Receiver, lane: Any, position: int, data: bytes) -> bool:
        return bool(original(receiver, lane, position, data)) or not receiver._flow.accepts_reliable

    return take_reliable


def _last_frame_decides(original: Method) -> Method:
    """A packet of several lanes counts as taken if its last one was."""

    def apply(receiver: Receiver, frames: list[Any], number: int, now_us: int) -> int:
        outcome = OK
        for frame in frames:
            outcome = original(receiver, [frame], number, now_us)
        return outcome

    return apply


def _release_short(original: Method) -> Method:
    """Room is given back for the bytes of messages, not for what they were charged."""

    def release(room: ReceiveRoom, messages: int, charge_bytes: int) -> None:
        original(room, messages, charge_bytes - messages)

    return release


def _keep_the_room_of_the_dead(stream: ReliableReceiver) -> None:
    """A stream that ends gives no room back."""


def _sleep_while_blocked(original: Method) -> Method:
    """What waits for tokens waits for an ack as well."""

    def data_at_us(transmitter: Transmitter, now_us: int) -> int:
        return NEVER if transmitter._flow.is_blocked else int(original(transmitter, now_us))

    return data_at_us


def _stay_blocked(original: Method) -> Method:
    """Once data had to wait, sends no longer plan to transmit."""

    def poll(transmitter: Transmitter, *args: Any) -> Any:
        was_blocked = transmitter._flow.is_blocked
        packets = original(transmitter, *args)
        transmitter._flow.is_blocked |= was_blocked
        return packets

    return poll


def _send_again_on_the_open_lane(original: Method) -> Method:
    """A lost segment goes with whatever lane the packet has already."""

    def open_section(transmitter: Transmitter, sections: dict[int, Any], lane: SendLane) -> Any:
        if sections and transmitter._flow.retransmit:
            return next(iter(sections.values())), 0
        return original(transmitter, sections, lane)

    return open_section


def _stop_waiting_too_far(original: Method) -> Method:
    """Nothing is expected any more that is still under way."""

    def add_stop_waiting(transmitter: Transmitter, pieces: list[bytes]) -> int:
        in_flight = transmitter._flow.in_flight
        reported = in_flight.reported
        in_flight.reported = max(reported, in_flight.next_number - 2)
        size = int(original(transmitter, pieces))
        in_flight.reported = reported
        return size

    return add_stop_waiting


def _first_open_position(lane: SendLane) -> int:
    return lane.segments[0].begin if lane.segments else lane.next_position


PLANTED_DEEP: dict[str, Plant] = {
    "ack what was refused": patched(Receiver, "handle_payload", _ack_what_was_refused),
    "miss reports of loss": patched(PacketsInFlight, "settle", _miss_reports_of_loss),
    "never send again": patched(Flow, "send_again", _instead(lambda flow, segment: None)),
    "no replay check": patched(ReplayWindow, "is_new", _instead(lambda window, number: number > 0)),
    "islands one byte short": patched(ReliableReceiver, "_insert_island", _merge_islands_one_off),
    "report one too many": patched(AcksOwed, "add", _report_one_too_many),
    "forget what is unconfirmed": patched(SendLane, "handle_acked", _forget_up_to(lambda lane: lane.next_position)),
    "forget what is partly confirmed": patched(SendLane, "handle_acked", _forget_up_to(_first_open_position)),
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
    "ack while lingering": patched(Receiver, "_take_reliable", _ack_while_lingering),
    "last frame decides": patched(Receiver, "_apply", _last_frame_decides),
    "blocked for ever": patched(Transmitter, "poll", _stay_blocked),
    "room given back short": patched(ReceiveRoom, "release", _release_short),
    "room of the dead": patched(ReliableReceiver, "discard", _instead(_keep_the_room_of_the_dead)),
    "sleep while blocked": patched(Transmitter, "_data_at_us", _sleep_while_blocked),
    "lanes mixed up when sent again": patched(Transmitter, "_open_section", _send_again_on_the_open_lane),
    "stop waiting too far": patched(Transmitter, "_add_stop_waiting", _stop_waiting_too_far),
    "no report after closing": patched(Remotes, "_report_linger", _instead(lambda remotes, link, ended: None)),
    "forget what waits for the handshake": patched(Connection, "take_held", lambda original: lambda c: original(c)[1:]),
    "probe timer stuck": patched(Transmitter, "poll_timeout", lambda original: _late(original)),
}


def _late(original: Method) -> Method:
    """Acks and data are due, and nobody is told."""

    def poll_timeout(transmitter: Transmitter, now_us: int) -> Any:
        deadline = original(transmitter, now_us)
        return deadline._replace(at_us=NEVER) if deadline.reason == "ack" else deadline

    return poll_timeout
