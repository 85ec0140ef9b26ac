"""How many connections an endpoint may have, and what happens to the next one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from peergram.config import CONNECTIONS_MAX
from peergram.connection.connection import Connection
from peergram.endpoint.link import Link
from peergram.errors import Result
from tests.compiled import STANDS_IN
from tests.endpoint.world import AUTO_RESTART, RELIABLE, SECOND_US, connected


@STANDS_IN
def test_an_endpoint_that_is_full_refuses_others_and_keeps_whom_it_has() -> None:
    """E25: no dial goes out and no request is announced until there is room again."""
    world, alice, bob = connected()
    carol, dave = world.add("carol"), world.add("dave")
    table = bob.endpoint._links
    others = []
    while not table.is_full:
        connection = cast(Connection, SimpleNamespace(connection_id=table.new_connection_id()))
        others.append(Link(connection, socket_id=-1, remote=("192.0.2.1", 9), peer=None))
        table.add(others[-1])
    assert len(others) == CONNECTIONS_MAX - 1
    assert bob.send(carol, b"you") == Result.FAIL
    dave.send(bob, b"let me in")
    world.run(SECOND_US)
    assert not bob.requests
    alice.send(bob, b"still here")
    world.run(SECOND_US)
    assert bob.payloads() == [b"still here"]
    for link in others[:2]:
        table.remove(link)
    assert bob.send(carol, b"you", RELIABLE | AUTO_RESTART) == Result.OK
    world.run(SECOND_US)
    assert carol.payloads() == [b"you"]
    assert bob.payloads() == [b"still here", b"let me in"]
    for link in others[2:]:
        table.remove(link)
