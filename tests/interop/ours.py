"""Our side of an interop test: one `Messages` and one reference process, connected over plain UDP in either role.

The reference's listening program uses plain connections, so messages carry no header of ours (raw framing) unless a test asks
for it. `Duet` keeps what arrived and what failed; everything that waits has a deadline and raises `AssertionError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Literal, Self

from peergram import (
    Config,
    ConnectionInfo,
    ConnectionState,
    Identity,
    Message,
    Messages,
    RealTimeStatus,
    Result,
    SendFlags,
    SessionFailed,
)
from peergram.events import SessionRequested

from .gns import NO_NAGLE, RELIABLE
from .gns_process import Answer, ReferenceProcess
from .mix import Mix, Verdict, Verifier, messages

Role = Literal["we dial", "they dial"]
ROLES: tuple[Role, ...] = ("we dial", "they dial")

OUR_NAME = "str:ours"
THEIR_NAME = "str:reference"
HELLO = b"hello"

_PAUSE_S = 0.001
_READ_MAX = 1_000
_QUIET_S = 1.5
_SEND_BURST = 64


def until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Wait until `condition` holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {timeout_s} s: {what}"
        time.sleep(_PAUSE_S)


@dataclass(slots=True)
class Exchange:
    """What became of two mixes sent at once."""

    there: Answer
    """The report of the reference's sink."""
    here: Verdict
    here_s: float
    answer: Answer


class Duet:
    """One of ours and one reference."""

    def __init__(self, reference: ReferenceProcess, role: Role, config: Config | None = None, *, host: str = "127.0.0.1") -> None:
        self.reference = reference
        self.role = role
        self.received: list[Message] = []
        self.requests: list[SessionRequested] = []
        self.failures: list[SessionFailed] = []
        self.host = host
        self.port = 0
        self.peer = Identity.of(THEIR_NAME)
        dialing = role == "we dial"
        self.net = Messages(OUR_NAME, listen=None if dialing else (host, 0), config=config)
        self.net.on_session_request = self._take_request
        self.net.on_session_failed = self.failures.append

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.net.close()

    # --- connecting ---

    def connect(self, port: int, *, framing: str = "raw") -> Self:
        """Bring the connection up; `port` is where the reference listens if we dial."""
        self.begin(port, framing=framing)
        self.step_until(lambda: self.state == ConnectionState.CONNECTED, "our side connected")
        self.reference.wait("connected")
        if self.role == "we dial":
            assert self.take_at_reference(1)[0][3].endswith(HELLO)
        return self

    def begin(self, port: int, *, framing: str = "raw") -> None:
        """Start connecting: our first message dials, or the reference dials and we accept in `step`."""
        if self.role == "we dial":
            self.port = port
            self.reference.request("listen", port=port, host=self.host)
            self.peer = Identity.ip((self.host, port))
            self.net.set_framing(self.peer, framing)
            assert self.send(HELLO) == Result.OK
        else:
            self.port = self.net.local_addresses[0][1]
            self.net.set_framing(self.peer, framing)
            self.reference.request("connect", port=self.port, host=self.host)

    def _take_request(self, request: SessionRequested) -> None:
        self.requests.append(request)
        assert self.net.accept_session_with_user(request.identity)

    # --- our side ---

    def send(self, data: bytes, flags: int = SendFlags.RELIABLE_NO_NAGLE, channel: int = 0) -> Result:
        """Send to the reference."""
        return self.net.send_message_to_user(self.peer, data, flags, channel)

    def step(self) -> list[Message]:
        """Run callbacks, take what arrived on channel 0 (also kept in `received`)."""
        self.net.run_callbacks()
        arrived = self.net.receive_messages_on_channel(0, _READ_MAX)
        self.received += arrived
        return arrived

    def step_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        """Keep stepping until `condition` holds."""

        def attempt() -> bool:
            self.step()
            return condition()

        until(attempt, f"{what}; failures: {self.failures}", timeout_s)

    @property
    def info(self) -> ConnectionInfo | None:
        """What we know of the connection."""
        return self.net.get_session_connection_info(self.peer, True, False).connection

    @property
    def state(self) -> ConnectionState:
        """How our session stands."""
        return self.net.get_session_connection_info(self.peer, False, False).state

    @property
    def status(self) -> RealTimeStatus:
        """How our connection is doing."""
        status = self.net.get_session_connection_info(self.peer, False, True).status
        assert status is not None
        return status

    def expect(self, payloads: list[bytes], timeout_s: float = 10.0) -> None:
        """Exactly these arrive here next, in this order."""
        self.step_until(lambda: len(self.received) >= len(payloads), f"{len(payloads)} messages", timeout_s)
        arrived, self.received = self.received, []
        assert [message.payload for message in arrived] == payloads

    # --- the reference's side ---

    def their_send(self, data: bytes, flags: int = RELIABLE | NO_NAGLE, lane: int = 0) -> int:
        """The reference sends to us; its result."""
        result: int = self.reference.request("send", data=data.hex(), flags=flags, lane=lane)["result"]
        return result

    def take_at_reference(self, count: int, timeout_s: float = 10.0) -> list[tuple[int, int, int, bytes]]:
        """The next `count` messages that the reference receives: number, flags, lane, data."""
        taken: list[tuple[int, int, int, bytes]] = []

        def attempt() -> bool:
            self.step()
            taken.extend((number, flags, lane, bytes.fromhex(data)) for number, flags, lane, data in self._their_messages())
            return len(taken) >= count

        until(attempt, f"{count} messages at the reference", timeout_s)
        return taken

    def _their_messages(self) -> list[tuple[int, int, int, str]]:
        arrived: list[tuple[int, int, int, str]] = self.reference.request("receive")["messages"]
        return arrived

    def expect_at_reference(self, payloads: list[bytes], timeout_s: float = 10.0) -> None:
        """Exactly these arrive there next, in this order."""
        taken = self.take_at_reference(len(payloads), timeout_s)
        assert [message[3] for message in taken] == payloads

    # --- message mixes ---

    def exchange(self, ours: Mix, theirs: Mix, *, is_reliable: bool = True, timeout_s: float = 60.0) -> Exchange:
        """Both sides send their mix at once; what became of it."""
        self.reference.request("sink", mix=asdict(ours), is_reliable=is_reliable)
        self.reference.request("source", mix=asdict(theirs), is_reliable=is_reliable)
        self.reference.post("wait", condition="done", timeout_s=timeout_s)
        flags = SendFlags.RELIABLE if is_reliable else SendFlags.UNRELIABLE
        verifier = Verifier(theirs, is_reliable=is_reliable)
        to_send = messages(ours)
        waiting = next(to_send, None)
        started_s = last_s = time.monotonic()
        sent_s = 0.0
        answer: Answer | None = None
        while True:
            now_s = time.monotonic()
            assert now_s - started_s < timeout_s, f"not done: {verifier.verdict}, {self.status}"
            for _ in range(_SEND_BURST):
                if waiting is None or self.send(waiting, flags) != Result.OK:
                    break
                waiting = next(to_send, None)
            arrived = self.net.receive_messages_on_channel(0, _READ_MAX)
            for message in arrived:
                verifier.add(message.payload)
            if arrived:
                last_s = now_s
            if waiting is None and not sent_s:
                sent_s = now_s
            answer = answer or self.reference.poll()
            here = verifier.verdict.received >= verifier.verdict.expected or (not is_reliable and now_s - last_s > _QUIET_S)
            if answer and here and waiting is None:
                break
            if not arrived:
                time.sleep(_PAUSE_S)
        return Exchange(answer["sink"], verifier.verdict, last_s - started_s, answer)
