"""aiocoap: puts and gets more than one block, and observes three changes."""

from __future__ import annotations

import asyncio
import sys

import aiocoap


async def main() -> None:
    uri = f"coap://{sys.argv[1]}:{sys.argv[2]}"
    context = await aiocoap.Context.create_client_context()
    content = bytes(range(256)) * 40
    put = await context.request(aiocoap.Message(code=aiocoap.PUT, payload=content, uri=f"{uri}/kept")).response
    got = await context.request(aiocoap.Message(code=aiocoap.GET, uri=f"{uri}/kept")).response
    print("put", put.code, "and got", len(got.payload), "bytes, the same:", got.payload == content)
    request = context.request(aiocoap.Message(code=aiocoap.GET, uri=f"{uri}/ticks", observe=0))
    first = int((await request.response).payload)
    seen = []
    async for notice in request.observation:
        seen.append(int(notice.payload))
        if len(seen) == 3:
            break
    print("observed", len(seen), "changes, each newer:", [first, *seen] == sorted({first, *seen}))
    await context.shutdown()


asyncio.run(main())
