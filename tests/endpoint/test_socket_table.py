"""Which sockets there are, and which of them a dial may use."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peergram.config import REDIAL_QUIET_US
from peergram.endpoint.sockets import SocketTable
from peergram.io_requests import CloseSocket, OpenSocket
from tests.threats.world import SOAK

REMOTES = [(f"192.0.2.{at}", 7_000) for at in range(4)] + [("2001:db8::1", 7_000)]


class SocketTableModel(RuleBasedStateMachine):
    """A driver that opens, fails and closes, and dials that come and go; the model knows what is open and what is quiet."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SocketTable()
        self.now_us = 1
        self.families: dict[int, int] = {}
        self.waiting: list[int] = []
        self.open: set[int] = set()
        self.gone: set[int] = set()
        self.quiet: dict[tuple[int, tuple[str, int]], int] = {}
        self.in_use: list[int] = []
        self.listening: list[int] = []

    def fetch(self) -> None:
        while (request := self.table.poll_request()) is not None:
            if isinstance(request, OpenSocket):
                assert request.socket_id not in self.families, "ids are never used twice"
                self.families[request.socket_id] = request.family
                self.waiting.append(request.socket_id)
            elif isinstance(request, CloseSocket):
                assert request.socket_id in self.families
                assert request.socket_id not in self.gone, "closed once"
                assert request.socket_id not in self.in_use, "not while a link uses it"
                self.gone.add(request.socket_id)
                self.open.discard(request.socket_id)

    @rule(v6=st.booleans())
    def listen(self, v6: bool) -> None:
        self.listening.append(self.table.listen(("::" if v6 else "0.0.0.0", 7_000)))
        self.fetch()

    @rule(works=st.booleans())
    def open_next(self, works: bool) -> None:
        if not self.waiting:
            return
        socket_id = self.waiting.pop(0)
        if works:
            self.table.handle_opened(socket_id, ("0.0.0.0", 7_000))
            if socket_id not in self.gone:
                self.open.add(socket_id)
        else:
            self.fail(socket_id)

    def fail(self, socket_id: int) -> None:
        self.table.handle_failed(socket_id)
        self.gone.add(socket_id)
        self.open.discard(socket_id)
        self.in_use = [other for other in self.in_use if other != socket_id]

    @rule(remote=st.sampled_from(REMOTES))
    def dial(self, remote: tuple[str, int]) -> None:
        socket_id = self.table.for_dial(remote, self.now_us)
        self.fetch()
        assert self.families[socket_id] == (6 if ":" in remote[0] else 4)
        assert socket_id not in self.gone, "a socket that is gone carries no dial"
        assert self.quiet.get((socket_id, remote), 0) <= self.now_us, "a reference server may still hold that port"
        self.in_use.append(socket_id)

    @rule(remote=st.sampled_from(REMOTES), was_reference=st.booleans())
    def hang_up(self, remote: tuple[str, int], was_reference: bool) -> None:
        if not self.in_use:
            return
        socket_id = self.in_use.pop(0)
        if was_reference:
            self.table.note_dialed(socket_id, remote, self.now_us)
            self.quiet[socket_id, remote] = self.now_us + REDIAL_QUIET_US
        self.table.release(socket_id)
        self.fetch()

    @rule()
    def break_one(self) -> None:
        if self.open:
            self.fail(min(self.open))

    @rule(by_us=st.sampled_from((1, REDIAL_QUIET_US // 2, REDIAL_QUIET_US)))
    def let_time_pass(self, by_us: int) -> None:
        self.now_us += by_us

    @invariant()
    def the_table_knows_what_is_open(self) -> None:
        for socket_id in self.families:
            assert self.table.is_open(socket_id) == (socket_id in self.open)
            assert (self.table.local_address(socket_id) is not None) == (socket_id in self.open)
        assert len(self.table.local_addresses) == len(self.open.intersection(self.listening))


TestSocketTableModel = SocketTableModel.TestCase
TestSocketTableModel.settings = settings(max_examples=2_000 if SOAK else 60, stateful_step_count=40)


def test_closing_everything_closes_each_socket_once() -> None:
    table = SocketTable()
    ids = [table.listen(("0.0.0.0", 0)), table.listen(("::", 0)), table.listen(("127.0.0.1", 0))]
    table.close_all()
    table.close_all()
    requests = []
    while (request := table.poll_request()) is not None:
        requests.append(request)
    assert [request.socket_id for request in requests if isinstance(request, CloseSocket)] == ids
