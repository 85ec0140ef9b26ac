"""Our side of an interop test: one `Messages` and one reference process, connected over plain UDP in either role.

The reference's programs use plain connections, so messages carry no header of ours (raw framing) unless a test asks for it.
Whatever waits here has a deadline and raises `AssertionError` with what is known then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Literal, Self

from peergram import Config, ConnectionInfo, Identity, Message, Messages, RealTimeStatus, Result, SendFlags, SessionFailed
from peergram.events import ConnectionState, SessionRequested

from .child import Answer
from .conftest import ReferenceFactory
from .gns import NO_NAGLE, RELIABLE, RESULT_OK
from .gns_process import ReferenceProcess
from .mix import Mix, Verdict, Verifier, messages

Role = Literal["we dial", "they dial"]
Framing = Literal["messages", "raw"]
ROLES: tuple[Role, ...] = ("we dial", "they dial")

OUR_NAME = "str:ours"
THEIR_NAME = "str:reference"
HELLO = b"hello"

_PAUSE_S = 0.001
_READ_MAX = 1_000
_QUIET_S = 1.5
_SEND_BURST = 64


def connected(
    start: ReferenceFactory,
    port: int,
    role: Role,
    config: Config | None = None,
    *,
    framing: Framing = "raw",
    host: str = "127.0.0.1",
    settings: Mapping[str, object] | None = None,
) -> Duet:
    """A fresh pair with the connection up; `port` is where the reference listens, `settings` are its own."""
    duet = Duet(start(identity=THEIR_NAME, **(settings or {})), role, config, framing=framing, host=host)
    try:
        return duet.connect(port)
    except BaseException:
        duet.net.close()
        raise


def until(condition: Callable[[], bool], describe: Callable[[], str], timeout_s: float = 10.0) -> None:
    """Try until `condition` holds; `describe` tells what is missing when the time is over."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {timeout_s} s: {describe()}"
        time.sleep(_PAUSE_S)


@dataclass(slots=True)
class Exchange:
    """What became of two mixes sent at once."""

    here: Verdict
    here_s: float
    """From the beginning to the last arrival here."""
    there: Answer
    """The report of the reference's sink."""

    @property
    def is_complete(self) -> bool:
        """Both mixes are there as they should be."""
        return self.here.is_complete and bool(self.there["is_complete"])


class Duet:
    """One of ours and one reference."""

    def __init__(
        self,
        reference: ReferenceProcess,
        role: Role,
        config: Config | None = None,
        *,
        framing: Framing = "raw",
        host: str = "127.0.0.1",
    ) -> None:
        self.reference = reference
        self.role = role
        self.host = host
        self.peer = Identity.of(THEIR_NAME)
        """What we call the reference: its name if it dials, its address if we do."""
        self.received: list[Message] = []
        """Arrived here and not yet expected."""
        self.requests: list[SessionRequested] = []
        self.failures: list[SessionFailed] = []
        self.accepts = True
        """Whether requests are accepted."""
        self.accepted: list[bool] = []
        """What that said."""
        self._framing = framing
        config = config or Config()
        if role == "they dial":
            self.net = Messages(OUR_NAME, listen=(host, 0), config=replace(config, framing=framing), trust="open", signaling=None)
        else:
            self.net = Messages(OUR_NAME, config=config, trust="open", signaling=None)
        self.net.on_session_request = self._take_request
        self.net.on_session_failed = self.failures.append

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.net.close()

    # --- connecting ---

    def connect(self, port: int) -> Self:
        """Bring the connection up; where we dial, our greeting is read away at the reference."""
        self.begin(port)
        self.step_until(lambda: self.state == ConnectionState.CONNECTED)
        self.reference.wait("connected")
        if self.role == "we dial":
            assert self.take_there(1)[0][3].endswith(HELLO)
        return self

    def begin(self, port: int) -> None:
        """Start connecting: our first message dials, or the reference dials and `step` accepts."""
        if self.role == "we dial":
            self.reference.request("listen", port=port, host=self.host)
            self.peer = Identity.ip((self.host, port))
            self.net.set_framing(self.peer, self._framing)
            assert self.send(HELLO) == Result.OK
        else:
            self.reference.request("connect", port=self.net.local_addresses[0][1], host=self.host)

    def _take_request(self, request: SessionRequested) -> None:
        self.requests.append(request)
        if self.accepts:
            self.accepted.append(self.net.accept_session_with_user(request.identity))

    # --- our side ---

    def send(self, data: bytes, flags: int = SendFlags.RELIABLE_NO_NAGLE, channel: int = 0) -> Result:
        """Send to the reference, once."""
        return self.net.send_message_to_user(self.peer, data, flags, channel)

    def send_all(self, payloads: Iterable[bytes], flags: int = SendFlags.RELIABLE_NO_NAGLE) -> None:
        """Send one after the other, waiting while the send buffer is full."""
        for payload in payloads:
            results: list[Result] = []

            def attempt(payload: bytes = payload, results: list[Result] = results) -> bool:
                results[:] = [self.send(payload, flags)]
                return results[0] != Result.LIMIT_EXCEEDED

            until(attempt, lambda: "room in our send buffer")
            assert results == [Result.OK], f"{len(payload)} bytes"

    def step(self) -> None:
        """Run callbacks and take what arrived on channel 0."""
        self.net.run_callbacks()
        self.received += self.net.receive_messages_on_channel(0, _READ_MAX)

    def step_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Keep stepping until `condition` holds."""

        def attempt() -> bool:
            self.step()
            return condition()

        until(attempt, self._describe, timeout_s)

    def _describe(self) -> str:
        return f"{self.info}; failures {self.failures}; {len(self.received)} messages"

    @property
    def info(self) -> ConnectionInfo:
        """What we know of the connection."""
        info = self.net.get_session_connection_info(self.peer, True, False).connection
        assert info is not None, "no session"
        return info

    @property
    def state(self) -> ConnectionState:
        """How our session stands."""
        return self.net.get_session_connection_info(self.peer, False, False).state

    @property
    def status(self) -> RealTimeStatus:
        """How our connection is doing."""
        status = self.net.get_session_connection_info(self.peer, False, True).status
        assert status is not None, "no session"
        return status

    def settle(self) -> None:
        """Until the reference has confirmed all that we sent."""

        def is_settled() -> bool:
            status = self.status
            return not (status.pending_reliable_bytes or status.pending_unreliable_bytes or status.sent_unacked_reliable_bytes)

        self.step_until(is_settled)

    def take_here(self, count: int, timeout_s: float = 10.0) -> list[Message]:
        """The next `count` messages that arrive here."""
        self.step_until(lambda: len(self.received) >= count, timeout_s)
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def take_on_channel(self, channel: int, count: int) -> list[Message]:
        """The next `count` messages on a channel other than 0, which is `step`'s."""
        taken: list[Message] = []

        def attempt() -> bool:
            taken.extend(self.net.receive_messages_on_channel(channel, count - len(taken)))
            return len(taken) >= count

        until(attempt, self._describe)
        return taken

    def expect_here(self, payloads: list[bytes]) -> None:
        """Exactly these arrive here next, in this order."""
        assert [message.payload for message in self.take_here(len(payloads))] == payloads

    # --- the reference's side ---

    def their_send(self, data: bytes, flags: int = RELIABLE | NO_NAGLE, lane: int = 0) -> None:
        """The reference sends to us, waiting while its send buffer is full."""

        def attempt() -> bool:
            self.step()
            result: int = self.reference.request("send", data=data.hex(), flags=flags, lane=lane)["result"]
            return result == RESULT_OK

        until(attempt, lambda: "room in the reference's send buffer")

    def take_there(self, count: int, timeout_s: float = 10.0) -> list[tuple[int, int, int, bytes]]:
        """The next `count` messages that the reference receives: number, flags, lane, data."""
        taken: list[tuple[int, int, int, bytes]] = []

        def attempt() -> bool:
            self.step()
            arrived = self.reference.request("receive", messages_max=min(256, count - len(taken)))["messages"]
            taken.extend((number, flags, lane, bytes.fromhex(data)) for number, flags, lane, data in arrived)
            return len(taken) >= count

        until(attempt, lambda: f"{count} messages at the reference, only {len(taken)}; {self._describe()}", timeout_s)
        return taken

    def expect_there(self, payloads: list[bytes]) -> None:
        """Exactly these arrive there next, in this order."""
        assert [message[3] for message in self.take_there(len(payloads))] == payloads

    # --- message mixes ---

    def exchange(self, ours: Mix, theirs: Mix, *, is_reliable: bool = True, timeout_s: float = 60.0) -> Exchange:
        """Both sides send their mix at once, as fast as the send buffers take it; what became of it."""
        self.reference.request("sink", mix=asdict(ours), is_reliable=is_reliable)
        self.reference.request("source", mix=asdict(theirs), is_reliable=is_reliable)
        self.reference.post("wait", condition="done", timeout_s=timeout_s)
        flags = SendFlags.RELIABLE if is_reliable else SendFlags.UNRELIABLE
        verifier = Verifier(theirs, is_reliable=is_reliable)
        verdict = verifier.verdict
        to_send = messages(ours)
        waiting = next(to_send, None)
        answer: Answer | None = None
        began_s = last_s = time.monotonic()
        is_here = False
        while waiting is not None or answer is None or not is_here:
            now_s = time.monotonic()
            assert now_s - began_s < timeout_s, f"{verdict}; {self.failures}; {self.status}"
            for _ in range(_SEND_BURST):
                if waiting is None or self.send(waiting, flags) != Result.OK:
                    break
                waiting = next(to_send, None)
            self.step()
            for message in self.received:
                verifier.add(message.payload)
                last_s = now_s
            is_quiet = not is_reliable and now_s - last_s > _QUIET_S
            is_here = verdict.received >= verdict.expected or is_quiet
            answer = answer or self.reference.poll()
            if not self.received:
                time.sleep(_PAUSE_S)
            self.received.clear()
        return Exchange(verdict, last_s - began_s, answer["sink"])
