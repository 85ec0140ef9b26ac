"""Services that are closed after the test, and a server for those that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peergram.servers.line_server import LineServer
from peergram.signaling.service import SignalingService

from .mailbox import Join, Mailbox, party


@pytest.fixture
def join() -> Iterator[Join]:
    """Starts a service for a name; all are closed after the test."""
    services: list[SignalingService] = []

    def join(service: SignalingService, name: str) -> Mailbox:
        mailbox = Mailbox()
        services.append(service)
        service.start(party(name), mailbox)
        return mailbox

    yield join
    for service in services:
        service.close()


@pytest.fixture
def server() -> Iterator[LineServer]:
    server = LineServer(("127.0.0.1", 0))
    yield server
    server.close()
