"""aioquic: sends back every stream."""

from __future__ import annotations

import asyncio
import sys

from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration

TASKS = set()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    writer.write_eof()


def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    TASKS.add(asyncio.ensure_future(echo(reader, writer)))


async def main() -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["test"])
    configuration.load_cert_chain(sys.argv[2], sys.argv[3])
    await serve("::", int(sys.argv[1]), configuration=configuration, stream_handler=on_stream)
    print("serving", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
