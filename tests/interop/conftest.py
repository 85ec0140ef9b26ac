"""Fixtures of the tests against the reference: they skip where `PEERGRAM_GNS_LIBRARY` does not name its shared library."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from .gns import GnsError, Settings, library_path
from .gns_process import ReferenceProcess

ReferenceFactory = Callable[..., ReferenceProcess]


@pytest.fixture
def reference() -> Iterator[ReferenceFactory]:
    """Starts reference peers: call it with the fields of `gns.Settings`; each peer is a process, ended with the test."""
    try:
        library_path()
    except GnsError as error:
        pytest.skip(f"no reference to test against: {error}")
    started: list[ReferenceProcess] = []

    def start(**settings: object) -> ReferenceProcess:
        process = ReferenceProcess(Settings(**settings))  # type: ignore[arg-type]
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def free_port() -> int:
    """A UDP port of the loopback interface that nobody uses right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
