"""A session as a command sees it, when its end comes at awkward moments."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peergram.cli.call import Call
from peergram.cli.terminal import Failure
from peergram.errors import EndReason, Result
from peergram.events import ConnectionInfo, ConnectionState, InfoFlags, SessionFailed, SessionInfo, Unconfirmed
from peergram.identity import Identity

PEER = Identity.of("ip:192.0.2.7:27015")


class Line:
    """A network with one peer, whose session is in the state it is put in, and who ends it when told to."""

    def __init__(self) -> None:
        self.state = ConnectionState.CONNECTING
        self.on_session_failed: Callable[[SessionFailed], object] = lambda event: None
        self._ended = False

    def end(self) -> None:
        self.state = ConnectionState.CLOSED_BY_PEER
        self._ended = True

    def send_message_to_user(self, *_: object) -> Result:
        return Result.OK

    def get_session_connection_info(self, *_: object, **__: object) -> SessionInfo:
        info = ConnectionInfo(
            identity=PEER, address="", state=self.state, end_reason=0, end_debug="", description="",
            flags=InfoFlags.NONE, own_peer=True, proven_by="nothing", key_fingerprint="",
        )  # fmt: skip
        return SessionInfo(self.state, info)

    def run_callbacks(self) -> None:
        if self._ended:
            self._ended = False
            reason, state = EndReason.SESSION_CLOSED, ConnectionState.CLOSED_BY_PEER
            self.on_session_failed(SessionFailed(PEER, reason, state, "closed", Unconfirmed()))


def call_on(line: Line) -> Call:
    return Call(line, PEER, 0)  # type: ignore[arg-type]


def test_a_refusal_that_comes_during_the_first_send_is_called_so() -> None:
    line = Line()
    call = call_on(line)
    line.end()
    call.send(b"header")
    with pytest.raises(Failure, match="refused"):
        call.wait_connected(1)


def test_what_a_peer_said_before_he_went_is_looked_at_after_the_end_is_known() -> None:
    line = Line()
    call = call_on(line)
    line.state = ConnectionState.CONNECTED
    call.wait_connected(1)
    states: list[ConnectionState] = []
    line.end()
    with pytest.raises(Failure, match="is gone"):
        call.check(lambda: states.append(line.state), now=True)
    assert states == [ConnectionState.CLOSED_BY_PEER]

    class LateEnd(Line):
        def run_callbacks(self) -> None:
            self.end()
            super().run_callbacks()

    late = LateEnd()
    late_call = call_on(late)
    late_call._was_connected = True
    with pytest.raises(Failure, match="is gone"):
        late_call.check(lambda: states.append(late.state), now=True)
    assert states == [ConnectionState.CLOSED_BY_PEER] * 2
