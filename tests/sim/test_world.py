from __future__ import annotations

from peergram.config import Config
from peergram.errors import Result
from peergram.events import SessionFailed, SessionRequested
from peergram.sim.checkers import all_checkers
from peergram.sim.link import Datagram
from peergram.sim.world import Host, HostOptions, World
from tests.sim.toy_endpoint import make_toy

SECOND_US = 1_000_000


def a_pair(*, late_us: int = 0, lazy_us: int = 0) -> tuple[World, Host, Host]:
    world = World("test", make_endpoint=make_toy, checkers=all_checkers())
    a, b = (world.add_host(options=HostOptions(late_us=late_us, lazy_us=lazy_us)) for _ in range(2))
    return world, a, b


def a_connected_pair() -> tuple[World, Host, Host]:
    world, a, b = a_pair()
    a.send(b.dial_name, b"first")
    world.run_for(SECOND_US)
    b.accept("str:host-0")
    world.run_for(SECOND_US)
    assert [message.payload for message in b.receive_all()] == [b"first"]
    return world, a, b


def test_a_message_reaches_the_host_that_was_dialed_after_it_accepts() -> None:
    world, a, b = a_pair()
    assert a.send(b.dial_name, b"hello", channel=3) == Result.OK
    world.run_for(SECOND_US)
    assert [type(event) for event in b.events] == [SessionRequested]
    assert b.unread_messages == 0
    assert b.accept("str:host-0")
    world.run_for(SECOND_US)
    (message,) = b.receive_all()
    assert (message.identity.text, message.channel, message.payload) == ("str:host-0", 3, b"hello")
    assert world.violations == []


def test_time_passes_only_in_the_world() -> None:
    world, _, _ = a_pair()
    world.run_for(3 * SECOND_US)
    assert world.now_us == 3 * SECOND_US


def test_packets_take_the_delay_of_their_link() -> None:
    world, a, b = a_pair()
    world.links[0, 1].model.delay_us = 250_000
    a.send(b.dial_name, b"")
    world.run_for(249_999)
    assert world.links[1, 0].counts.sent == 0
    world.run_for(1)
    assert world.links[1, 0].counts.sent == 1


def test_a_paused_host_hears_everything_when_it_goes_on() -> None:
    world, a, b = a_connected_pair()
    b.pause(3 * SECOND_US)
    for _ in range(5):
        a.send(b.dial_name, b"while asleep")
    world.run_for(2 * SECOND_US)
    assert b.unread_messages == 0
    world.run_for(2 * SECOND_US)
    assert len(b.receive_all()) == 5
    assert world.violations == []


def test_a_crashed_host_comes_back_with_nothing_but_its_name() -> None:
    world, a, b = a_connected_pair()
    b.crash()
    assert not b.is_alive
    a.send(b.dial_name, b"lost")
    b.start()
    world.run_for(20 * SECOND_US)
    failures = [event for event in a.events if isinstance(event, SessionFailed)]
    assert [failure.unconfirmed.messages for failure in failures] == [1]
    assert b.run == 1
    assert world.ledger.unsettled() == []


def test_a_host_keeps_its_deadlines_by_its_own_clock() -> None:
    world, a, b = a_pair()
    world.links[0, 1].up = False
    a.clock.set_drift(world.now_us, 100_000)
    a.send(b.dial_name, b"never")
    world.run_for(10 * SECOND_US * 10 // 11 - 1000)
    assert a.events == []
    world.run_for(2000)
    assert [type(event) for event in a.events] == [SessionFailed]


def test_a_jump_of_the_clock_makes_timers_due() -> None:
    world, a, b = a_pair()
    world.links[0, 1].up = False
    a.send(b.dial_name, b"never")
    a.jump_clock(3600 * SECOND_US)
    world.run_for(10)
    assert [type(event) for event in a.events] == [SessionFailed]


def test_packets_that_arrive_together_come_as_one_batch() -> None:
    world, a, b = a_connected_pair()
    a.send(b.dial_name, bytes(10_000))
    world.run_for(SECOND_US)
    assert "several packets in one batch" in world.marks


def test_late_timers_and_lazy_drivers_lose_nothing() -> None:
    world, a, b = a_pair(late_us=16_000, lazy_us=5_000)
    a.send(b.dial_name, 3_000)
    world.run_for(SECOND_US)
    b.accept("str:host-0")
    world.run_for(5 * SECOND_US)
    assert len(b.receive_all()) == 1
    assert world.violations == []


def test_a_socket_that_cannot_be_opened_is_told() -> None:
    world = World("test", make_endpoint=make_toy)
    a, b = world.add_host(options=HostOptions(bind_failures=1.0)), world.add_host()
    a.send(b.dial_name, b"x")
    assert [type(event) for event in a.events] == [SessionFailed]


def test_what_leaves_the_endpoint_as_an_exception_is_a_finding() -> None:
    world, a, _ = a_pair()
    endpoint = a.endpoint
    assert endpoint is not None
    endpoint.handle_timeout = lambda now_us: 1 // 0  # type: ignore[method-assign, assignment]
    a.turn("handle_timeout", lambda e, now_us: e.handle_timeout(now_us))
    assert [violation.name for violation in world.violations] == ["V20"]


def test_a_run_without_end_is_stopped() -> None:
    world, _, _ = a_pair()
    world.events_max = 1_000

    def again() -> None:
        world.after(1, again)

    again()
    world.run_for(SECOND_US)
    assert [violation.name for violation in world.violations] == ["work"]


def test_an_injected_packet_arrives_past_the_links() -> None:
    world, _, b = a_connected_pair()
    world.links[0, 1].up = False
    world.inject(Datagram(("192.0.2.1", 9), (b.ip, 7000), b"noise"), delay_us=5)
    world.run_for(10)
    assert world.violations == []


def test_small_limits_of_a_reader_hold_back_its_sender() -> None:
    world = World("test", make_endpoint=make_toy, checkers=all_checkers())
    a, b = world.add_host(), world.add_host(config=Config(recv_buffer_messages=2))
    for number in range(10):
        a.send(b.dial_name, bytes((number,)) * 10)
    world.run_for(SECOND_US)
    b.accept("str:host-0")
    world.run_for(3 * SECOND_US)
    assert b.unread_messages == 2
    received = []
    for _ in range(10):
        received += [message.payload[0] for message in b.receive_all()]
        world.run_for(3 * SECOND_US)
    assert received == list(range(10))
