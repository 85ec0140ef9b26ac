"""Word of another network, for clients of a signaling server: nobody tells a TCP connection that its way is gone, and whoever
only waits to be called would notice at the next keepalive."""

from __future__ import annotations

from collections.abc import Callable

from peergram.drivers.interfaces import InterfaceWatch
from peergram.drivers.system import monotonic_us
from peergram.io_requests import InterfaceAddress

MakeWatch = Callable[[Callable[[list[InterfaceAddress], int], None], int], InterfaceWatch]
"""Takes whom to tell, and now."""


class NetworkChange:
    """Notes that this machine's addresses have changed; for one thread. Wait for `fileno` (if not negative) and `due_us`, then
    ask `has_changed`."""

    def __init__(self, make_watch: MakeWatch = InterfaceWatch) -> None:
        self._changes = -1
        """One less than what was told: the first list is no change."""
        self._watch = make_watch(self._note, monotonic_us())
        self._watch.handle_due(monotonic_us())

    @property
    def due_us(self) -> int:
        """When to ask again in any case."""
        return self._watch.due_us

    def fileno(self) -> int:
        """Readable when there is a sign of change: then call `handle_signs`. -1 where the system gives none."""
        return self._watch.fileno()

    def handle_signs(self) -> None:
        """Take what the kernel says."""
        while self._watch.handle_sign(monotonic_us()):
            pass

    @property
    def has_changed(self) -> bool:
        """Whether the addresses have changed since `forget`."""
        self._watch.handle_due(monotonic_us())
        return self._changes > 0

    def forget(self) -> None:
        """Whoever wanted to know has drawn his conclusions."""
        self._changes = min(self._changes, 0)

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""
        self._watch.close()

    def _note(self, _addresses: list[InterfaceAddress], _now_us: int) -> None:
        self._changes += 1
