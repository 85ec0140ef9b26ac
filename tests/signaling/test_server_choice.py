"""Which of several servers a client goes to, and when."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from peergram.config import SIGNALING_RECONNECT_MAX_US, SIGNALING_RECONNECT_MIN_US, SIGNALING_REFUSED_PAUSE_US
from peergram.signaling.server_choice import ServerChoice

SECOND = 1_000_000


def test_clients_begin_at_all_of_them_alike() -> None:
    rng = Random(1)
    first = [ServerChoice(3, rng.random()).current for _ in range(3_000)]
    assert all(900 < first.count(server) < 1_100 for server in range(3))
    assert ServerChoice(3, 1.0).current == 2


def test_who_loses_his_server_is_at_another_one_within_half_a_second() -> None:
    for chance in (0.0, 0.5, 1.0):
        servers = ServerChoice(3, 0.0)
        servers.handle_connected(0)
        wait_us = servers.handle_lost(60 * SECOND, chance)
        assert servers.current != 0
        assert SIGNALING_RECONNECT_MIN_US <= wait_us <= 2 * SIGNALING_RECONNECT_MIN_US


def test_clients_of_a_server_that_died_come_neither_all_at_once_nor_all_to_one() -> None:
    rng = Random(2)
    waits, places = set(), set()
    for _ in range(100):
        servers = ServerChoice(3, rng.random())
        waits.add(servers.handle_lost(0, rng.random()) // 10_000)
        places.add(servers.current)
    assert len(waits) > 15
    assert places == {0, 1, 2}


def test_one_server_that_is_gone_for_good_does_not_keep_a_client_from_the_others() -> None:
    rng = Random(3)
    servers, now_us = ServerChoice(2, 0.0), 0
    for _ in range(20):
        now_us += servers.handle_lost(now_us, rng.random())
    servers.handle_connected(now_us)
    here = servers.current
    now_us += 60 * SECOND
    wait_us = servers.handle_lost(now_us, 0.5)
    assert servers.current != here
    assert wait_us <= 2 * SIGNALING_RECONNECT_MIN_US


def test_while_all_are_away_each_is_tried_ever_less_often() -> None:
    rng = Random(4)
    servers, now_us = ServerChoice(3, 0.0), 0
    tried: dict[int, list[int]] = {0: [], 1: [], 2: []}
    while now_us < 300 * SECOND:
        tried[servers.current].append(now_us)
        now_us += servers.handle_lost(now_us, rng.random())
    for times in tried.values():
        in_first_seconds = sum(at_us < 4 * SECOND for at_us in times)
        in_last_minute = sum(at_us > 240 * SECOND for at_us in times)
        assert in_first_seconds >= 3
        assert in_last_minute <= 20
        assert max(later - before for before, later in pairwise(times)) <= 2 * SIGNALING_RECONNECT_MAX_US


def test_a_server_that_refuses_for_good_is_left_alone_and_the_others_are_not() -> None:
    servers = ServerChoice(2, 0.0)
    servers.handle_lost(0, 0.5, SIGNALING_REFUSED_PAUSE_US)
    assert servers.current == 1
    wait_us = servers.handle_lost(SECOND, 0.5, 0)
    assert servers.current == 1
    assert wait_us < SIGNALING_RECONNECT_MAX_US


def test_a_single_server_is_waited_for_as_ever() -> None:
    servers = ServerChoice(1, 0.7)
    assert servers.current == 0
    assert servers.handle_lost(0, 0.0, SIGNALING_REFUSED_PAUSE_US) == SIGNALING_REFUSED_PAUSE_US
    assert servers.handle_lost(0, 1.0) <= 4 * SIGNALING_RECONNECT_MIN_US
