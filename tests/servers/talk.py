"""Two real peers who talk all the time, while something happens to their servers."""

from __future__ import annotations

import threading
import time
from typing import Any

from peergram import Messages, SendFlags
from peergram.drivers.signaling.websocket import WebSocketSignaling


class Talk:
    """Alice tells Bob a number twenty times a second, and Bob listens."""

    def __init__(self, url: str, names: tuple[str, str] = ("alice", "bob"), *, pause_s: float = 0.05, **options: Any) -> None:
        self.services = [WebSocketSignaling(url), WebSocketSignaling(url)]
        self.alice = Messages(names[0], signaling=self.services[0], state=False, **options)
        self.bob = Messages(names[1], signaling=self.services[1], state=False, **options)
        self.failures: list[object] = []
        self.came: list[int] = []
        self.sent = 0
        self.longest_gap_s = 0.0
        self._receiver = names[1]
        self._pause_s = pause_s
        self._end = threading.Event()
        for each in (self.alice, self.bob):
            each.on_session_request = lambda request, each=each: each.accept_session_with_user(request.identity)
            each.on_session_failed = self.failures.append
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._speak, self._listen)]
        for thread in self._threads:
            thread.start()

    def _speak(self) -> None:
        while not self._end.wait(self._pause_s):
            self.alice.send_message_to_user(self._receiver, b"%d" % self.sent, SendFlags.RELIABLE)
            self.sent += 1
            self.alice.run_callbacks()

    def _listen(self) -> None:
        last_s: float | None = None
        while not self._end.is_set() or len(self.came) < self.sent:
            self.bob.wait(0.1)
            self.bob.run_callbacks()
            for message in self.bob.receive_messages_on_channel(0, 100):
                now_s = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now_s - last_s if last_s is not None else 0.0)
                last_s = now_s
                self.came.append(int(message.payload))

    def end(self) -> None:
        """Everything that was said must have been heard, once, in order."""
        self._end.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for each in (self.alice, self.bob):
            each.close()
        assert self.came == list(range(self.sent))
        assert self.failures == []
