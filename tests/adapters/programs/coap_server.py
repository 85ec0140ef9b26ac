"""aiocoap: a resource that keeps what is put there, and one to observe."""

from __future__ import annotations

import asyncio
import sys

import aiocoap
from aiocoap import resource


class Kept(resource.Resource):
    def __init__(self) -> None:
        super().__init__()
        self.content = b""

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=self.content)

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        self.content = request.payload
        return aiocoap.Message(code=aiocoap.CHANGED)


class Ticks(resource.ObservableResource):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self.count += 1
            self.updated_state()

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=str(self.count).encode())


async def main() -> None:
    ticks = Ticks()
    root = resource.Site()
    root.add_resource(["kept"], Kept())
    root.add_resource(["ticks"], ticks)
    context = await aiocoap.Context.create_server_context(root, bind=("127.0.0.1", int(sys.argv[1])))
    task = asyncio.create_task(ticks.tick())
    print("serving", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    task.cancel()
    await context.shutdown()


asyncio.run(main())
