from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

import pytest

from peergram.config import SIGNALS_WAITING_MAX
from peergram.drivers.pump import SIGNALS_PER_TURN, Pump
from peergram.drivers.system import monotonic_us
from peergram.identity import Identity

from .fake_endpoint import FakeEndpoint, until
from .rigs import MakeRig, quiet_for

ALICE, BOB = Identity.of("alice"), Identity.of("bob")


class Carrier:
    """Keeps what it is to carry."""

    def __init__(self) -> None:
        self.sent: list[tuple[Identity, bytes]] = []
        self.closes = 0
        self.on_send: Callable[[], object] | None = None

    def send(self, to: Identity, signal: bytes) -> None:
        if self.closes:
            raise AssertionError("a signal after the end")
        self.sent.append((to, signal))
        if self.on_send is not None:
            self.on_send()

    def close(self) -> None:
        self.closes += 1


def test_signals_of_the_endpoint_go_to_the_service_in_order(rig: MakeRig) -> None:
    endpoint, carrier = FakeEndpoint(), Carrier()
    made = rig(endpoint, signaling=carrier)
    signals = [(BOB, number.to_bytes(2, "big")) for number in range(3 * SIGNALS_PER_TURN)]
    made.call(lambda _: endpoint.signals_to_send.extend(signals))
    assert made.until(lambda: len(carrier.sent) == len(signals))
    assert carrier.sent == signals


def test_signals_of_the_service_reach_the_endpoint_in_order(rig: MakeRig) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint, signaling=Carrier())

    def has(count: int) -> bool:
        return len(endpoint.signals) == count

    for number in range(200):
        made.driver.deliver_signal(ALICE if number % 2 else None, number.to_bytes(2, "big"))
        assert made.until(partial(has, number + 1))
    assert endpoint.signals == [(ALICE if number % 2 else None, number.to_bytes(2, "big")) for number in range(200)]


def test_what_a_signal_causes_goes_out_without_further_ado(rig: MakeRig) -> None:
    class Answering(FakeEndpoint):
        def handle_signal(self, sender: Identity | None, signal: bytes, now_us: int) -> None:
            super().handle_signal(sender, signal, now_us)
            self.signals_to_send.append((BOB, b"answer to " + signal))

    endpoint, carrier = Answering(), Carrier()
    made = rig(endpoint, signaling=carrier)
    made.driver.deliver_signal(BOB, b"hello")
    assert made.until(lambda: carrier.sent == [(BOB, b"answer to hello")])


def test_delivering_never_waits_for_the_lock() -> None:
    """A service may deliver from inside a lock that the driver's turn waits for."""
    endpoint = FakeEndpoint()
    pump = Pump(endpoint, signaling=(carrier := Carrier()))
    service_lock = threading.Lock()
    delivered = threading.Event()

    def deliver() -> None:
        with service_lock:
            pump.post_signal(BOB, b"from the service")
        delivered.set()

    def on_send() -> None:
        threading.Thread(target=deliver, daemon=True).start()
        assert delivered.wait(5)
        with service_lock:
            return

    carrier.on_send = on_send
    endpoint.signals_to_send.append((BOB, b"to the service"))
    pump.drain(monotonic_us())
    pump.handle_due(monotonic_us())
    pump.abandon()
    assert endpoint.signals == [(BOB, b"from the service")]


def test_a_flood_of_signals_is_bounded_and_taken_in_portions() -> None:
    rings: list[int] = []
    endpoint = FakeEndpoint()
    pump = Pump(endpoint, ring=lambda: rings.append(1))
    for number in range(SIGNALS_WAITING_MAX + 50):
        pump.post_signal(ALICE, number.to_bytes(2, "big"))
    assert (len(rings), pump.signals_dropped) == (1, 50)
    taken = []
    for turn in range(1, SIGNALS_WAITING_MAX // SIGNALS_PER_TURN + 1):
        pump.handle_due(monotonic_us())
        taken.append(len(endpoint.signals) == turn * SIGNALS_PER_TURN)
    assert all(taken)
    assert [blob for _, blob in endpoint.signals] == [number.to_bytes(2, "big") for number in range(SIGNALS_WAITING_MAX)]
    assert len(rings) == SIGNALS_WAITING_MAX // SIGNALS_PER_TURN, "once at first, and after each turn but the last"
    pump.abandon()


def test_a_defect_in_one_signal_does_not_stop_the_next(rig: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint, signaling=Carrier())
    endpoint.raise_in_handlers = 1
    made.driver.deliver_signal(ALICE, b"bad")
    made.driver.deliver_signal(ALICE, b"good")
    assert made.until(lambda: endpoint.signals == [(ALICE, b"good")])
    assert "the endpoint raised" in caplog.text


def test_a_service_that_raises_is_logged_and_the_rest_goes_on(rig: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("no more memory")

    endpoint, carrier = FakeEndpoint(), Carrier()
    made = rig(endpoint, signaling=carrier)
    carrier.on_send = fail
    with caplog.at_level(logging.ERROR):
        made.call(lambda _: endpoint.signals_to_send.extend([(BOB, b"1"), (BOB, b"2")]))
        assert made.until(lambda: len(carrier.sent) == 2)
    assert [record.message for record in caplog.records] == ["the signaling service raised"]


def test_closing_sends_the_last_signals_and_closes_the_service_once(rig: MakeRig) -> None:
    class Parting(FakeEndpoint):
        def close(self, now_us: int) -> None:
            super().close(now_us)
            self.signals_to_send.extend([(BOB, b"goodbye")] * (2 * SIGNALS_PER_TURN))

    endpoint, carrier = Parting(), Carrier()
    made = rig(endpoint, signaling=carrier)
    made.close()
    assert until(lambda: carrier.closes)
    made.driver.deliver_signal(ALICE, b"too late")
    made.driver.close()
    assert quiet_for(lambda: not endpoint.signals, 0.02)
    assert (len(carrier.sent), carrier.closes) == (2 * SIGNALS_PER_TURN, 1)


def test_without_a_service_the_endpoint_is_not_asked_for_signals(rig: MakeRig) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    made.call(lambda _: endpoint.signals_to_send.append((BOB, b"stays")))
    assert list(endpoint.signals_to_send) == [(BOB, b"stays")]
