"""A server on loopback, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from peergram import config
from peergram.address import Address
from peergram.servers.login_certificates import LoginCertificates
from peergram.servers.names_file import NamesFile
from peergram.servers.run import ServerSettings, SignalingServer
from peergram.servers.tls_files import ServerTls

T = TypeVar("T")


class RunningServer:
    """What tests see of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: SignalingServer) -> None:
        self._loop = loop
        self.server = server
        self.address = server.addresses[0]

    @property
    def url(self) -> str:
        return str(self.server.urls()[0])

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to `question` by the server's thread."""

        async def answer() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(10)

    def count(self, name: str) -> int:
        return self.ask(lambda: self.server.core.counters[name])


@contextmanager
def running_server(
    *,
    bind: Address = ("127.0.0.1", 0),
    stun: bool = False,
    tls: ServerTls | None = None,
    names: NamesFile | None = None,
    login_us: int = config.SERVER_LOGIN_US,
    unsent_total_bytes: int = config.SERVER_UNSENT_TOTAL_BYTES_MAX,
    certificates: LoginCertificates | None = None,
) -> Iterator[RunningServer]:
    """Started, and stopped at the end."""
    started: list[RunningServer] = []
    failed: list[BaseException] = []
    ready = threading.Event()
    end: list[Callable[[], object]] = []

    async def live() -> None:
        settings = ServerSettings(
            binds=(bind,),
            stun_binds=(("127.0.0.1", 0),) if stun else (),
            tls=tls,
            names=names,
            login_us=login_us,
            unsent_total_bytes=unsent_total_bytes,
            certificates=certificates,
        )
        server = SignalingServer(settings)
        await server.start()
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        end.append(lambda: loop.call_soon_threadsafe(stopped.set))
        started.append(RunningServer(loop, server))
        ready.set()
        await stopped.wait()
        await server.close()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # noqa: BLE001
            failed.append(error)
        ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    if failed:
        raise failed[0]
    try:
        yield started[0]
    finally:
        end[0]()
        thread.join(10)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def tcp(address: Address) -> socket.socket:
    """A plain connection."""
    connection = socket.create_connection(address, 10)
    connection.settimeout(10)
    return connection


def answer_to(address: Address, request: bytes) -> bytes:
    """All that comes back until the server hangs up."""
    with tcp(address) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while data := connection.recv(65_536):
                answer += data
        except ConnectionResetError:
            pass
        return answer
