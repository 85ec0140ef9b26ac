"""One endpoint under each of the ways to drive it, with one face: a thread, a program that waits, an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from peergram.drivers.asyncio_driver import AsyncioDriver
from peergram.drivers.system import monotonic_us
from peergram.drivers.thread_driver import ThreadDriver

from .fake_endpoint import FakeEndpoint, until

TIMEOUT_S = 10.0
_LOOK_EVERY_US = 20_000


class Rig(Protocol):
    """A driven endpoint."""

    driver: ThreadDriver | AsyncioDriver

    def call(self, command: Callable[[int], object]) -> None:
        """A command of the application."""

    def until(self, condition: Callable[[], object]) -> bool:
        """Whether it comes true in time."""

    def close(self) -> None: ...


class ThreadRig:
    """The driver's own thread does the work."""

    def __init__(self, endpoint: FakeEndpoint, **options: Any) -> None:
        self.driver: ThreadDriver | AsyncioDriver = ThreadDriver(endpoint, **options)
        assert isinstance(self.driver, ThreadDriver)
        self.thread_driver = self.driver
        self.thread_driver.start()

    def call(self, command: Callable[[int], object]) -> None:
        self.thread_driver.call(command)

    def until(self, condition: Callable[[], object]) -> bool:
        return until(condition, TIMEOUT_S)

    def close(self) -> None:
        self.thread_driver.close()


class WheelRig(ThreadRig):
    """The program waits through the driver and does the work itself meanwhile."""

    def until(self, condition: Callable[[], object]) -> bool:
        # In portions, since what other threads of the test do wakes nobody.
        give_up_at_us = monotonic_us() + int(TIMEOUT_S * 1e6)
        while monotonic_us() < give_up_at_us:
            if self.thread_driver.wait(monotonic_us() + _LOOK_EVERY_US, lambda: bool(condition())):
                return True
        return False


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """Cannot wait for sockets, like the Proactor loop of Windows."""

    add_reader = asyncio.AbstractEventLoop.add_reader


class LoopRig:
    """An event loop does the work, in a thread of the test's."""

    make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop

    def __init__(self, endpoint: FakeEndpoint, **options: Any) -> None:
        self._loop = type(self).make_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.driver: ThreadDriver | AsyncioDriver = self._in_loop(lambda: self._start(endpoint, options))

    async def _start(self, endpoint: FakeEndpoint, options: dict[str, Any]) -> AsyncioDriver:
        driver = AsyncioDriver(endpoint, **options)
        await driver.start()
        return driver

    def _in_loop(self, make: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(TIMEOUT_S)

    def call(self, command: Callable[[int], object]) -> None:
        async def main() -> None:
            self.driver.call(command)

        self._in_loop(main)

    def until(self, condition: Callable[[], object]) -> bool:
        return until(condition, TIMEOUT_S)

    def close(self) -> None:
        async def main() -> None:
            self.driver.close()

        if not self._loop.is_closed():
            self._in_loop(main)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(TIMEOUT_S)
            self._loop.close()


class LoopOverThreadRig(LoopRig):
    """An event loop with the driver's thread underneath."""

    make_loop = LoopWithoutReaders


RIGS: dict[str, type[ThreadRig] | type[LoopRig]] = {
    "thread": ThreadRig,
    "at the wheel": WheelRig,
    "asyncio": LoopRig,
    "asyncio over a thread": LoopOverThreadRig,
}
MakeRig = Callable[..., Rig]


def quiet_for(condition: Callable[[], object], time_s: float) -> bool:
    """Whether `condition` stays true for that long."""
    until_s = time.monotonic() + time_s
    while time.monotonic() < until_s:
        if not condition():
            return False
        time.sleep(0.005)
    return True
