"""aioquic: sends a stream, and compares what comes back."""

from __future__ import annotations

import asyncio
import random
import sys

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration


async def main() -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["test"], server_name="bob")
    configuration.load_verify_locations(sys.argv[3])
    content = random.Random(1).randbytes(int(sys.argv[4]))
    async with connect(sys.argv[1], int(sys.argv[2]), configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write(content)
        writer.write_eof()
        if await reader.read() == content:
            print(len(content), "bytes came back as they were")


asyncio.run(main())
