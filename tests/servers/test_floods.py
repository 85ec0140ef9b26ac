"""S3 through sockets and processes: what a flood leaves of its victim and of his friends."""

from __future__ import annotations

import statistics
import threading
import time

from peergram import config
from peergram.identity import Identity
from tests.threats.world import SOAK, full_or

from .processes import python, said_by, server_process
from .raw_client import RawClient

ATTACKERS, FRIENDS = 8, 10
FRIEND_PER_S = 8
"""Each; they and the attackers together stay below what one receiver gets in all, so that nothing of theirs has to be lost."""


class Victim:
    """Reads all that comes, on a thread of his own; when it came, by sender."""

    def __init__(self, client: RawClient) -> None:
        self.came: dict[Identity, list[tuple[float, bytes]]] = {}
        self._client = client
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            message = self._client.read_signal()
            now_s = time.perf_counter()
            if message.blob == b"end":
                return
            self.came.setdefault(message.peer, []).append((now_s, message.blob))

    def wait_end(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def most_within(times_s: list[float], span_s: float) -> int:
    """The greatest number of them within any span of this length."""
    return max(sum(begin_s <= each < begin_s + span_s for each in times_s[at:]) for at, begin_s in enumerate(times_s))


def test_whoever_sends_ten_thousand_a_second_is_cut_down_and_friends_are_heard_in_time() -> None:
    seconds = full_or(20, 2)
    with server_process() as server:
        victim_client = RawClient(server.address, "victim")
        victim = Victim(victim_client)
        friends = [RawClient(server.address, f"friend{number}") for number in range(FRIENDS)]
        port = str(server.address[1])
        with python("-m", "tests.servers.flood", port, "victim", str(ATTACKERS), "10000", str(seconds)) as attacker:
            assert said_by(attacker) == "ready"
            sent_at_s: dict[bytes, float] = {}
            begin_s = time.perf_counter()
            for number in range(seconds * FRIENDS * FRIEND_PER_S):
                time.sleep(max(0.0, begin_s + number / (FRIENDS * FRIEND_PER_S) - time.perf_counter()))
                blob = b"%d" % number
                sent_at_s[blob] = time.perf_counter()
                friends[number % FRIENDS].send("victim", blob)
            flood = int(said_by(attacker))
        last = RawClient(server.address, "last", retry_busy=True)
        last.send("victim", b"end")
        victim.wait_end()
        for client in [victim_client, last, *friends]:
            client.close()
    attackers = [[at_s for at_s, _ in victim.came.pop(Identity.of(f"attacker{number}"), [])] for number in range(ATTACKERS)]
    took_ms = sorted((at_s - sent_at_s[blob]) * 1e3 for came in victim.came.values() for at_s, blob in came)
    p99_ms = statistics.quantiles(took_ms, n=100)[98]
    print(
        f"{flood / seconds:.0f} signals a second sent; from each attacker came {max(map(len, attackers)) / seconds:.1f} a second "
        f"and {max(most_within(each, 1.0) for each in attackers if each)} in any one; a friend's: {len(took_ms)}, "
        f"median {statistics.median(took_ms):.2f} ms, p99 {p99_ms:.2f} ms, longest {took_ms[-1]:.2f} ms"
    )
    assert flood >= seconds * full_or(9_000, 3_000)
    assert len(took_ms) == len(sent_at_s)
    for each in attackers:
        assert 0 < len(each) <= config.SIGNALS_PAIR_BURST + (seconds + 1) * config.SIGNALS_PAIR_PER_S
        assert most_within(each, 1.0) <= config.SIGNALS_PAIR_BURST + config.SIGNALS_PAIR_PER_S + 1
    if SOAK:
        assert max(map(len, attackers)) / seconds <= 20
        assert p99_ms <= 200
