"""What waits for the connection to a server."""

from __future__ import annotations

from peergram import config
from peergram.identity import Identity
from peergram.signaling.unsent import Unsent

BOB = Identity.of("bob")


def test_what_was_put_is_taken_in_order_and_once() -> None:
    unsent = Unsent()
    for number in range(3):
        unsent.put(BOB, b"%d" % number, 0)
    assert [unsent.take(1) for _ in range(4)] == [(BOB, b"0"), (BOB, b"1"), (BOB, b"2"), None]


def test_of_too_many_the_oldest_give_way() -> None:
    unsent = Unsent()
    for number in range(1_000):
        unsent.put(BOB, b"%d" % number, 0)
    assert len(unsent) == config.SIGNALING_UNSENT_MAX
    assert unsent.take(0) == (BOB, b"%d" % (1_000 - config.SIGNALING_UNSENT_MAX))


def test_signals_that_waited_too_long_are_not_sent() -> None:
    unsent = Unsent()
    unsent.put(BOB, b"old", 0)
    unsent.put(BOB, b"old too", 1)
    unsent.put(BOB, b"new", 2)
    assert unsent.take(config.SIGNALING_UNSENT_AGE_US + 2) == (BOB, b"new")
    assert unsent.take(config.SIGNALING_UNSENT_AGE_US + 2) is None
