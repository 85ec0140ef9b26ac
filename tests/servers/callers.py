"""Many clients that call each other: `python -m tests.servers.callers URLS COUNT FIRST_PER_SECOND CALLS_PER_SECOND`.

They are the library's own clients on one event loop. A call is what a rendezvous is to servers: a signal that is repeated twice
a second until the other one has answered. The line `ready` is said once all are let in, and after a line of input one line of
JSON: all calls, and all times without a connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from random import Random

from peergram.identity import Identity
from tests.drivers.signaling.parties import party

from .crowd import LoopClient

REPEAT_S = 0.5
GIVEN_UP_S = 30.0


class Caller(LoopClient):
    """One who calls and is called; `outages` are the times without a connection, each with its end."""

    def __init__(self, url: str, number: int, company: Company) -> None:
        super().__init__(url, self._note_welcome)
        self.number = number
        self.outages: list[tuple[float, float]] = []
        self._company = company
        self._lost_at_s: float | None = None
        self._answers: dict[bytes, asyncio.Event] = {}

    async def stay(self) -> None:
        await self.live(party(f"caller {self.number}"))

    def hear(self, sender: Identity | None, signal: bytes) -> None:
        kind, name = signal[:1], signal[1:]
        if kind == b"?" and sender is not None:
            self.send(sender, b"!" + name)
        elif (answered := self._answers.get(name)) is not None:
            answered.set()

    async def call(self, other: Caller, name: bytes) -> float | None:
        """How long it took; None if it came to nothing."""
        answered = self._answers[name] = asyncio.Event()
        begin_s = time.monotonic()
        try:
            while time.monotonic() - begin_s < GIVEN_UP_S:
                self.send(Identity.of(f"caller {other.number}"), b"?" + name)
                try:
                    await asyncio.wait_for(answered.wait(), REPEAT_S)
                except TimeoutError:
                    continue
                return time.monotonic() - begin_s
            return None
        finally:
            del self._answers[name]

    def _set_status(self, text: str) -> None:
        if text != "connected" and self.is_welcome and self._lost_at_s is None:
            self._lost_at_s = time.monotonic()
        super()._set_status(text)

    def _note_welcome(self) -> None:
        if self._lost_at_s is not None:
            self.outages.append((self._lost_at_s, time.monotonic()))
            self._lost_at_s = None
        self._company.note_welcome()


class Company:
    def __init__(self, urls: str, count: int) -> None:
        self._callers = [Caller(urls, number, self) for number in range(count)]
        self._calls: list[tuple[float, float | None]] = []
        self._rng = Random(count)
        self._is_ready = asyncio.Event()

    def note_welcome(self) -> None:
        if all(each.is_welcome for each in self._callers):
            self._is_ready.set()

    async def live(self, first_per_second: int, calls_per_second: float) -> None:
        tasks: set[asyncio.Task[None]] = set()
        for caller in self._callers:
            tasks.add(asyncio.ensure_future(caller.stay()))
            await asyncio.sleep(1 / first_per_second)
        await self._is_ready.wait()
        print("ready", flush=True)
        ending = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        number = 0
        while not ending.done():
            number += 1
            work = asyncio.ensure_future(self._call(b"%d" % number))
            tasks.add(work)
            work.add_done_callback(tasks.discard)
            await asyncio.sleep(1 / calls_per_second)
        while len(self._calls) < number:
            await asyncio.sleep(0.1)
        outages = [outage for caller in self._callers for outage in caller.outages]
        print(json.dumps({"calls": self._calls, "outages": outages}), flush=True)
        for task in tasks:
            task.cancel()

    async def _call(self, name: bytes) -> None:
        caller, other = self._rng.sample(self._callers, 2)
        begin_s = time.monotonic()
        self._calls.append((begin_s, await caller.call(other, name)))


if __name__ == "__main__":
    asyncio.run(Company(sys.argv[1], int(sys.argv[2])).live(int(sys.argv[3]), float(sys.argv[4])))
