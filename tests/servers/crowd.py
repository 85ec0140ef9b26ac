"""Many clients in a process of their own, on one event loop: `python -m tests.servers.crowd URL COUNT FIRST_PER_SECOND`.

They are the library's own clients, with its way of connecting again, only without a thread each. Whenever all of them are let in
it says so with one line of JSON: when each was, since the line before, on the clock that all processes of one machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable

from peergram.drivers.signaling.websocket import WebSocketSignaling
from peergram.identity import Identity
from peergram.signaling.service import LocalParty
from tests.drivers.signaling.parties import party


class LoopClient(WebSocketSignaling):
    """Lives on the loop that it is called from."""

    def __init__(self, url: str, tell_welcome: Callable[[], None]) -> None:
        super().__init__(url)
        self._tell_welcome = tell_welcome

    async def live(self, as_whom: LocalParty) -> None:
        self._party, self._deliver = as_whom, self.hear
        self._loop = asyncio.get_running_loop()
        await self._live()

    def hear(self, sender: Identity | None, signal: bytes) -> None:
        """Nobody in a crowd calls anybody."""

    def _set_status(self, text: str) -> None:
        super()._set_status(text)
        if text == "connected":
            self._tell_welcome()


class Crowd:
    def __init__(self, url: str, count: int) -> None:
        self._welcomes_s: list[float] = []
        self._clients = [LoopClient(url, self._note_welcome) for _ in range(count)]

    def _note_welcome(self) -> None:
        self._welcomes_s.append(time.monotonic())
        if len(self._welcomes_s) >= len(self._clients) and all(each.is_welcome for each in self._clients):
            print(json.dumps(self._welcomes_s), flush=True)
            self._welcomes_s.clear()

    async def live(self, first_per_second: int) -> None:
        tasks = []
        for number, client in enumerate(self._clients):
            tasks.append(asyncio.ensure_future(client.live(party(f"one of many {number}"))))
            await asyncio.sleep(1 / first_per_second)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(Crowd(sys.argv[1], int(sys.argv[2])).live(int(sys.argv[3])))
