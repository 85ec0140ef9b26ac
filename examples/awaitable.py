"""Two programs in one, with asyncio: a message and its answer, then a megabyte that arrives whole."""

from __future__ import annotations

import asyncio

from peergram import aio

WORDS, FILES = 3, 9


async def answer(net: aio.Net) -> None:
    async for message in net.channel(WORDS):
        await net.send(message.identity, b"hello " + message.payload, channel=WORDS)


async def main() -> None:
    async with aio.open("bob") as bob, aio.open("alice") as alice:
        bob.on_session_request = lambda request: bob.accept(request.identity)
        answering = asyncio.create_task(answer(bob))
        await alice.send("bob", b"from alice", channel=WORDS)
        print((await alice.receive(WORDS)).payload.decode())
        sending = asyncio.create_task(alice.send_blob("bob", bytes(1_000_000), channel=FILES, name="zeros"))
        blob = await bob.receive_blob(channel=FILES)
        await sending
        print(f"{blob.name}: {blob.size} bytes from {blob.identity}")
        answering.cancel()


asyncio.run(main())
