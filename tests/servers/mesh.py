"""Many real peers with a session between each two of them, who talk all the time, while something happens to their servers."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from peergram import Messages, SendFlags
from peergram.drivers.signaling.websocket import WebSocketSignaling
from tests.drivers.signaling.parties import wait_until

_CALLS_OPEN_MAX = 4


class Mesh:
    """Everybody has a session with everybody, and says something to each, again and again."""

    def __init__(self, urls: str, count: int, pause_s: float, *, name: str = "peer", **options: Any) -> None:
        self._names = [f"{name} {number}" for number in range(count)]
        self.services = [WebSocketSignaling(urls) for _ in range(count)]
        self.peers = [
            Messages(name, signaling=each, state=False, **options) for name, each in zip(self._names, self.services, strict=True)
        ]
        self.failures: list[object] = []
        self.sent = 0
        self.came: dict[tuple[int, str], list[int]] = {}
        self._pause_s = pause_s
        self._end = threading.Event()
        for peer in self.peers:
            peer.on_session_request = lambda request, peer=peer: peer.accept_session_with_user(request.identity)
            peer.on_session_failed = self.failures.append
        wait_until(lambda: all(each.is_welcome for each in self.services), 30)
        # One call after another, since signals of one caller are limited, and few at a time: all of them live in one process.
        self._open = 0
        for at, to in itertools.combinations(range(count), 2):
            self.peers[at].send_message_to_user(self._names[to], b"hello", SendFlags.RELIABLE, 1)
            self._open += 1
            wait_until(lambda: self._greet() <= _CALLS_OPEN_MAX, 60)
            time.sleep(0.03)
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    @property
    def sessions(self) -> int:
        return len(self.peers) * (len(self.peers) - 1) // 2

    def _greet(self) -> int:
        """Let everybody in; how many calls are under way."""
        for peer in self.peers:
            peer.run_callbacks()
            self._open -= len(peer.receive_messages_on_channel(1, 100))
        return self._open

    def _live(self) -> None:
        next_s = time.monotonic()
        while not self._end.is_set():
            if time.monotonic() >= next_s:
                next_s += self._pause_s
                for at, to in itertools.permutations(range(len(self.peers)), 2):
                    self.peers[at].send_message_to_user(self._names[to], b"%d" % self.sent, SendFlags.RELIABLE)
                self.sent += 1
            self._receive()
            time.sleep(0.02)

    def _receive(self) -> None:
        for at, peer in enumerate(self.peers):
            peer.run_callbacks()
            for message in peer.receive_messages_on_channel(0, 1_000):
                self.came.setdefault((at, str(message.identity)), []).append(int(message.payload))

    def wait_complete(self, least: int) -> None:
        """Until everybody has heard so much of everybody."""
        pairs = len(self.peers) * (len(self.peers) - 1)
        wait_until(
            lambda: len(self.came) == pairs and all(len(each) >= least for each in list(self.came.values())),
            30 + 3 * self._pause_s,
        )

    def end(self) -> None:
        """All that was said must have been heard, once, in order."""
        self._end.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        expected = list(range(self.sent))
        until_s = time.monotonic() + 30
        while any(each != expected for each in self.came.values()) and time.monotonic() < until_s:
            self._receive()
            time.sleep(0.02)
        for peer in self.peers:
            peer.close()
        amiss = {pair: each for pair, each in self.came.items() if each != expected}
        late = [pair for pair, each in amiss.items() if each == expected[: len(each)]]
        assert not amiss, f"of {self.sent}: {len(late)} pairs lack the last ones, the others: {amiss.keys() - late}"
        assert self.failures == []
