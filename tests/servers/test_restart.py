"""S7 with real processes: the server is killed and started again, its clients come back, and those who talk notice nothing."""

from __future__ import annotations

import json
import time
from bisect import bisect_left

from tests.drivers.signaling.parties import wait_until
from tests.threats.world import SOAK, full_or

from .processes import allow_files, python, said_by, server_process
from .talk import Talk

AWAY_S = 2.0 if SOAK else 0.0
FIRST_PER_S = 200


SERVE = """
import asyncio, json, sys, time
from collections import Counter
from peergram.servers.run import ServerSettings, run_until_stopped

logins_s = []

class Watched(Counter):
    def __setitem__(self, name, count):
        super().__setitem__(name, count)
        if name == "logins":
            logins_s.append(time.monotonic())

def say_started(server):
    server.core.counters = Watched()
    print(server.addresses[0][1], flush=True)

asyncio.run(run_until_stopped(ServerSettings(binds=(("127.0.0.1", int(sys.argv[1])),)), say_started))
print(json.dumps(logins_s), flush=True)
"""
"""Says at its end when each login was; a client that waits for its turn on a busy machine hears of it later."""


def test_after_a_kill_all_clients_are_back_in_time_and_who_talks_notices_nothing() -> None:
    count = full_or(2_000, 100)
    allow_files(3 * count + 500)
    with server_process() as first:
        port, url = first.address[1], f"ws://127.0.0.1:{first.address[1]}/"
        with python("-m", "tests.servers.crowd", url, str(count), str(FIRST_PER_S)) as crowd:
            try:
                assert len(json.loads(said_by(crowd))) >= count
                talk = Talk(url)
                wait_until(lambda: len(talk.came) >= 10)
                first.kill()
                wait_until(lambda: not any(each.is_welcome for each in talk.services))
                time.sleep(AWAY_S)
                with server_process(port, script=SERVE) as second:
                    back_s = time.monotonic()
                    came_back_s = sorted(json.loads(said_by(crowd)))
                    wait_until(lambda: all(each.is_welcome for each in talk.services))
                    talk.end()
                    rss_kib = second.rss_kib
                    second.process.terminate()
                    logins_s: list[float] = json.loads(said_by(second.process))
                    second.process.wait(20)
            finally:
                crowd.kill()
    last_s = came_back_s[-1] - back_s
    in_a_second = max(bisect_left(logins_s, at_s + 1) - at for at, at_s in enumerate(logins_s))
    print(
        f"{count} clients: all back {last_s:.1f} s after the server, {in_a_second} in the busiest second, server {rss_kib} KiB; "
        f"of {talk.sent} messages between two peers none was lost, the longest pause was {talk.longest_gap_s * 1e3:.0f} ms"
    )
    assert len(came_back_s) == count
    assert last_s <= 15
    assert in_a_second <= 400
    assert talk.longest_gap_s < 1.0
