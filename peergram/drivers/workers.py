"""A few daemon threads for system calls that block: they come with the work and go when it is done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Workers:
    """At most `threads_max` threads; at most `jobs_max` jobs that wait for one. Jobs must not raise."""

    def __init__(self, name: str, *, threads_max: int, jobs_max: int) -> None:
        self._name = name
        self._threads_max = threads_max
        self._jobs_max = jobs_max
        self._jobs: deque[Callable[[], None]] = deque()
        self._running = 0
        # Reentrant, because a signal's handler may submit in the middle of a submission.
        self._lock = threading.RLock()

    def submit(self, job: Callable[[], None]) -> bool:
        """Have `job` done by a thread; False if too many wait, or no thread can be had."""
        with self._lock:
            if len(self._jobs) >= self._jobs_max:
                return False
            self._jobs.append(job)
            if self._running >= self._threads_max:
                return True
            self._running += 1
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:
            # No more threads, or the interpreter ends.
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._jobs.clear()
                    return False
        return True

    def close(self) -> None:
        """Forget what waits. What runs cannot be stopped; its thread ends behind it."""
        self._jobs.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._running -= 1
                    return
                job = self._jobs.popleft()
            job()
