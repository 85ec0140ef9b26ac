"""When a stranger who keeps asking is announced again."""

from __future__ import annotations

from peergram.config import EVENTS_MAX, REQUEST_REPEAT_US
from peergram.endpoint.event_queue import EventQueue
from peergram.events import ConnectionState, RouteChanged, SessionFailed, SessionRequested, Unconfirmed
from peergram.identity import Identity

NOW_US = 9_000_000


def test_a_stranger_who_keeps_asking_is_announced_again_after_a_pause() -> None:
    queue = EventQueue()
    request = SessionRequested(Identity.of("bob"), "nothing", "SHA256:", "192.0.2.1:7000")
    queue.tell_request(request, NOW_US)
    assert queue.poll() == request
    queue.tell_request(request, NOW_US + 1)
    deadline = queue.poll_timeout()
    assert deadline is not None
    assert deadline.at_us == NOW_US + REQUEST_REPEAT_US
    queue.handle_timeout(deadline.at_us - 1)
    assert queue.poll() is None
    queue.handle_timeout(deadline.at_us)
    assert queue.poll() == request
    assert queue.poll_timeout() is None


def test_changes_of_the_way_give_way_to_reports_of_what_was_lost() -> None:
    queue = EventQueue()
    failed = SessionFailed(Identity.of("bob"), 5003, ConnectionState.CLOSED_BY_PEER, "gone", Unconfirmed(1, 1))
    queue.tell(failed)
    for number in range(EVENTS_MAX):
        queue.tell(RouteChanged(Identity.of(f"peer{number}"), "direct", "192.0.2.1:7000"))
    assert queue.poll() == failed
