"""Drivers that are closed after the test, and commands for their endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from peergram.drivers.thread_driver import ThreadDriver

from .fake_endpoint import FakeEndpoint
from .rigs import RIGS, MakeRig, Rig


@pytest.fixture
def start() -> Iterator[Callable[..., ThreadDriver]]:
    drivers: list[ThreadDriver] = []

    def start(endpoint: FakeEndpoint, **options: Any) -> ThreadDriver:
        drivers.append(ThreadDriver(endpoint, **options))
        drivers[-1].start()
        return drivers[-1]

    yield start
    for each in drivers:
        each.close()
        assert isinstance(each.endpoint, FakeEndpoint)
        assert each.endpoint.broken_promises == []


@pytest.fixture(params=list(RIGS))
def rig(request: pytest.FixtureRequest) -> Iterator[MakeRig]:
    """Makes rigs of one kind and closes them after the test, which must have found every promise of drivers kept."""
    made: list[tuple[Rig, FakeEndpoint]] = []

    def make(endpoint: FakeEndpoint, **options: Any) -> Rig:
        made.append((RIGS[request.param](endpoint, **options), endpoint))
        return made[-1][0]

    yield make
    for each, endpoint in made:
        each.close()
        assert endpoint.broken_promises == []


def send(driver: ThreadDriver, remote: tuple[str, int], packets: list[bytes], **options: int) -> None:
    endpoint = driver.endpoint
    assert isinstance(endpoint, FakeEndpoint)
    driver.call(lambda now_us: endpoint.send(remote, packets, now_us, **options))
