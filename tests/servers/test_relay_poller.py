"""Both ways to wait for sockets do the same."""

from __future__ import annotations

import socket

import pytest

from peergram.servers.relay_poller import make_poller


@pytest.mark.parametrize("with_epoll", [True, False])
def test_what_can_be_read_or_written_is_reported_while_it_is_watched(with_epoll: bool) -> None:
    poller = make_poller(with_epoll=with_epoll)
    one, two = socket.socketpair()
    poller.add(one.fileno())
    assert poller.wait(0) == []
    two.send(b"x")
    assert poller.wait(1) == [one.fileno()]
    one.recv(1)
    poller.watch_writing(one.fileno(), wanted=True)
    assert poller.wait(1) == [one.fileno()]
    poller.watch_writing(one.fileno(), wanted=False)
    assert poller.wait(0) == []
    two.send(b"x")
    poller.remove(one.fileno())
    assert poller.wait(0) == []
    poller.close()
    one.close()
    two.close()
