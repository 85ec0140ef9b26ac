"""One peer that talks by identity in a process of its own: the same commands whether it is the reference or ours.

A child (`gns_party`, `tests.scenarios.our_party`) makes a `Party` and hands it to `serve`; a test holds its `PartyProcess`. Every
time is in microseconds of the machine's monotonic clock, which all processes and all network namespaces share, so the times of
two children may be subtracted.

Besides single messages a party can `talk`: send numbered messages at an even pace on a channel of its own. Every party notes what
it hears on that channel, and `Heard` counts it.
"""

from __future__ import annotations

import itertools
import json
import queue
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import IO, Protocol

from .child import PIPES, Answer, Child, ChildError, answers, pump_lines, say

RELIABLE = 8
RESULT_OK = 1
CONNECTED = 3
RELAYED = 16
FAST = 8
TALK_CHANNEL = 1_000

_TURN_S = 0.001
_LOOK_US = 5_000
"""How often the state of the sessions is looked at."""
_TALK_BURST = 100
_RECEIVE_MAX = 256
_HEADER = struct.Struct("<Iq")
_POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnServer:
    """One relay; the reference knows `udp` only and is not told of others."""

    host: str
    port: int
    transport: str = "udp"
    """`udp`, `tcp` or `tls`."""
    user: str = ""
    password: str = ""
    fingerprint: str = ""
    """SHA-256 of the certificate of a `tls` one, in hexadecimal digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyOptions:
    """What a child is told at its start."""

    identity: str
    """`str:alice`"""
    signaling: str
    """`host:port` of a server of the line protocol; for ours any signaling with `://`."""
    stun: list[str] = field(default_factory=list)
    """`host:port` each."""
    turn: list[TurnServer] = field(default_factory=list)
    relay_map: str = ""
    """A file, of ours only."""
    relay_tickets: str = ""
    """A file, or `user:password` for all places; of ours only."""
    hide_ip: bool = False
    """Of ours only."""
    accepts: bool = True
    """Whether strangers are let in as soon as they ask."""
    signal_loss_percent: float = 0.0
    signal_duplicate_percent: float = 0.0
    signal_delay_ms: int = 0
    signal_seed: int = 1
    settings: dict[str, float | str] = field(default_factory=dict)
    """Of the side in question: the number of a configuration value of the reference, or a field of our `Config`."""
    log_level: int = 0
    """What the reference writes to the standard error: 0 nothing, 4 warnings, 5 messages, 8 everything."""

    def to_json(self) -> str:
        """For the child's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PartyOptions:
        """The child's half of `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "turn": [TurnServer(**server) for server in values["turn"]]})


@dataclass(frozen=True, slots=True)
class Standing:
    """How a session stands."""

    state: int
    """`ESteamNetworkingConnectionState`."""
    end_reason: int
    end_debug: str
    flags: int
    """16: relayed. 8: probably in the same local network."""
    address: str
    description: str
    ping_ms: int | None
    remote_pop: str = ""
    pop_relay: str = ""
    """Codes on the relay map; of ours only."""
    pending_reliable: int = 0
    """Bytes that wait to be sent, as the library counts them; also below."""
    pending_unreliable: int = 0
    unacked_reliable: int = 0

    @property
    def route(self) -> str:
        """`relay`, `local`, `direct`, or nothing while there is none."""
        if self.state != CONNECTED:
            return ""
        return "relay" if self.flags & RELAYED else "local" if self.flags & FAST else "direct"


@dataclass(frozen=True, slots=True)
class Arrived:
    """One message."""

    identity: str
    flags: int
    data: bytes


class Party(Protocol):
    """The six functions by identity, and a turn about every millisecond."""

    def step(self) -> list[Answer]:
        """Serve library and signals; what it was told: `{"kind": "request" or "failed", "identity": …, …}`."""

    def send(self, to: str, data: bytes, flags: int, channel: int) -> int:
        """The result: 1 for OK."""

    def receive(self, channel: int, messages_max: int) -> list[Arrived]:
        """What came on that channel, in order."""

    def accept(self, identity: str) -> bool:
        """Let somebody in."""

    def close_session(self, identity: str) -> bool:
        """End it."""

    def close_channel(self, identity: str, channel: int) -> bool:
        """End one channel of it."""

    def standing(self, identity: str) -> Standing | None:
        """None where there is no session."""

    def set_option(self, name: str, value: float | str) -> None:
        """Change a setting while running."""

    def close(self) -> None:
        """The end."""


def now_us() -> int:
    """The clock of all children."""
    return time.monotonic_ns() // 1_000


# --- the parent's side ---


class PartyProcess(Child):
    """The parent's side. Commands are the `do_` methods of `_Service`, with their keyword arguments."""

    def __init__(self, module: str, options: PartyOptions, popen: Callable[..., subprocess.Popen[str]]) -> None:
        """`popen` starts a command line with the keyword arguments of `subprocess.Popen`, where the party is to live."""
        self.identity = options.identity
        super().__init__(popen([sys.executable, "-m", module, options.to_json()], **PIPES))

    def send(self, to: str, data: bytes, flags: int = RELIABLE, channel: int = 0) -> int:
        """One message; gives the time at which it was handed over. Raises `ChildError` if it is refused."""
        answer = self.request("send", to=to, data=data.hex(), flags=flags, channel=channel)
        if answer["result"] != RESULT_OK:
            raise ChildError(f"{self.identity} cannot send to {to}: result {answer['result']}")
        at_us: int = answer["at_us"]
        return at_us

    def take(self, channel: int = 0, timeout_s: float = 15.0) -> tuple[str, bytes, int]:
        """The next message of a channel: who sent it, what, and when it came."""
        arrived = self.request("take", channel=channel, timeout_s=timeout_s)
        return arrived["from"], bytes.fromhex(arrived["data"]), arrived["at_us"]

    def standing(self, identity: str) -> Standing | None:
        """How the session with somebody stands."""
        standing = self.request("standing", identity=identity)["standing"]
        return None if standing is None else Standing(**standing)

    def events(self, kind: str) -> list[Answer]:
        """What it was told or saw, oldest first, each with `identity` and `at_us`: `request`, `failed`, or `standing`."""
        return [event for event in self.request("events")["events"] if event["kind"] == kind]

    def talk(self, to: str, seconds: float, *, per_s: int = 50, size_bytes: int = 200, is_reliable: bool = True) -> None:
        """Begin to send numbered messages at an even pace."""
        self.request("talk", to=to, seconds=seconds, per_s=per_s, size_bytes=size_bytes, is_reliable=is_reliable)

    def said(self) -> Answer:
        """What became of the talk so far: `sent`, `is_done`, and `refused` with counts by result."""
        return self.request("said")

    def heard(self, identity: str) -> Heard:
        """What came of somebody's talk."""
        return Heard(**self.request("heard", identity=identity))

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Look until something holds."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline_s, f"{self.identity}: not in {timeout_s} s: {what}"
            time.sleep(_POLL_S)


def connected(peer: PartyProcess, other: PartyProcess) -> bool:
    """Whether one says that its session with the other is up."""
    standing = peer.standing(other.identity)
    return standing is not None and standing.state == CONNECTED


@dataclass(slots=True)
class Heard:
    """What one party heard of another's talk; each row is number, when it was sent, when it came."""

    reliable: list[list[int]]
    unreliable: list[list[int]]

    @property
    def received(self) -> int:
        """How many different reliable messages came."""
        return len({row[0] for row in self.reliable})

    @property
    def doubled(self) -> int:
        """How many reliable messages came again."""
        return len(self.reliable) - self.received

    @property
    def is_ordered(self) -> bool:
        """Whether reliable messages came in the order in which they were sent."""
        numbers = [row[0] for row in self.reliable]
        return numbers == sorted(numbers)

    def missing(self, sent: int) -> int:
        """How many of the reliable messages that were sent did not come."""
        return sent - self.received

    def silence_us(self, from_us: int, until_us: int | None = None) -> int:
        """The longest time without any arrival of either kind that ended after `from_us`; the last may end with `until_us`."""
        times = sorted(row[2] for row in (*self.reliable, *self.unreliable))
        if until_us is not None:
            times.append(until_us)
        gaps = [after - before for before, after in itertools.pairwise(times) if after > from_us]
        return max(gaps, default=0)


# --- the child's side ---


def serve(make: Callable[[PartyOptions], Party], refusals: tuple[type[Exception], ...]) -> None:
    """The child's whole life: options on the command line, then commands until the input ends.

    `refusals` are the errors that are an answer to a command rather than a defect.
    """
    options = PartyOptions.from_json(sys.argv[1])
    with answers() as stream:
        try:
            party = make(options)
        except refusals as error:
            say(stream, {"error": f"{type(error).__name__}: {error}"})
            return
        try:
            _Service(party, options, stream, refusals).run(sys.stdin)
        finally:
            party.close()


class _Talk:
    """One flow of numbered messages."""

    def __init__(self, to: str, seconds: float, per_s: int, size_bytes: int, is_reliable: bool) -> None:
        self.sent = 0
        self.refused: Counter[int] = Counter()
        self._to = to
        self._per_s = per_s
        self._filling = bytes(max(0, size_bytes - _HEADER.size))
        self._flags = RELIABLE if is_reliable else 0
        self._total = int(seconds * per_s)
        self._began_us = now_us()

    @property
    def is_done(self) -> bool:
        return self.sent >= self._total

    def step(self, party: Party) -> None:
        due = min(self._total, (now_us() - self._began_us) * self._per_s // 1_000_000 + 1)
        for _ in range(min(_TALK_BURST, due - self.sent)):
            result = party.send(self._to, _HEADER.pack(self.sent, now_us()) + self._filling, self._flags, TALK_CHANNEL)
            if result != RESULT_OK:
                self.refused[result] += 1
                return
            self.sent += 1


class _Service:
    """The commands, and the loop that serves party, talk and standard input in turn."""

    def __init__(self, party: Party, options: PartyOptions, stream: IO[str], refusals: tuple[type[Exception], ...]) -> None:
        self._party = party
        self._accepts = options.accepts
        self._stream = stream
        self._refusals = refusals
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._events: list[Answer] = []
        self._known: dict[str, tuple[int, str]] = {}
        """Everybody we have to do with, and how it stood when we looked last."""
        self._look_at_us = 0
        self._talk: _Talk | None = None
        self._heard: dict[str, dict[str, list[list[int]]]] = defaultdict(lambda: {"reliable": [], "unreliable": []})
        self._taking: tuple[int, int] | None = None

    def run(self, commands: IO[str]) -> None:
        """Until the parent closes its end."""
        threading.Thread(target=pump_lines, args=(commands, self._commands), daemon=True).start()
        say(self._stream, {})
        while (line := self._next_command()) != "":
            if line:
                self._obey(json.loads(line))
            self._turn()

    # --- commands ---

    def do_send(self, to: str, data: str, flags: int, channel: int) -> Answer:
        at_us = now_us()
        result = self._party.send(to, bytes.fromhex(data), flags, channel)
        self._known.setdefault(to, (0, ""))
        return {"result": result, "at_us": at_us}

    def do_take(self, channel: int, timeout_s: float) -> None:
        """Answered when a message has come, or with an error when the time is over."""
        self._taking = channel, now_us() + int(timeout_s * 1_000_000)

    def do_receive(self, channel: int, messages_max: int = _RECEIVE_MAX) -> Answer:
        at_us = now_us()
        arrived = self._party.receive(channel, messages_max)
        return {"messages": [[message.identity, message.flags, message.data.hex(), at_us] for message in arrived]}

    def do_accept(self, identity: str) -> Answer:
        return {"did": self._party.accept(identity)}

    def do_accept_all(self, accepts: bool) -> Answer:
        self._accepts = accepts
        return {}

    def do_close_session(self, identity: str) -> Answer:
        return {"did": self._party.close_session(identity)}

    def do_close_channel(self, identity: str, channel: int) -> Answer:
        return {"did": self._party.close_channel(identity, channel)}

    def do_standing(self, identity: str) -> Answer:
        standing = self._party.standing(identity)
        return {"standing": None if standing is None else asdict(standing)}

    def do_set_option(self, name: str, value: float | str) -> Answer:
        self._party.set_option(name, value)
        return {}

    def do_events(self) -> Answer:
        return {"events": self._events}

    def do_talk(self, to: str, seconds: float, per_s: int, size_bytes: int, is_reliable: bool) -> Answer:
        self._known.setdefault(to, (0, ""))
        self._talk = _Talk(to, seconds, per_s, size_bytes, is_reliable)
        return {}

    def do_said(self) -> Answer:
        assert self._talk, "no talk has begun"
        return {"sent": self._talk.sent, "is_done": self._talk.is_done, "refused": self._talk.refused}

    def do_heard(self, identity: str) -> Answer:
        return self._heard[identity]

    # --- the loop ---

    def _next_command(self) -> str | None:
        try:
            return self._commands.get(timeout=_TURN_S)
        except queue.Empty:
            return None

    def _obey(self, command: Answer) -> None:
        handler = getattr(self, f"do_{command.pop('do')}")
        try:
            answer = handler(**command)
        except self._refusals as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if answer is not None:
            say(self._stream, answer)

    def _turn(self) -> None:
        for event in self._party.step():
            self._events.append({**event, "at_us": now_us()})
            self._known.setdefault(event["identity"], (0, ""))
            if event["kind"] == "request" and self._accepts:
                self._party.accept(event["identity"])
        if self._talk is not None:
            self._talk.step(self._party)
        self._listen()
        self._answer_taking()
        self._look()

    def _listen(self) -> None:
        at_us = now_us()
        for message in self._party.receive(TALK_CHANNEL, _RECEIVE_MAX):
            kind = "reliable" if message.flags & RELIABLE else "unreliable"
            self._heard[message.identity][kind].append([*_HEADER.unpack_from(message.data), at_us])

    def _answer_taking(self) -> None:
        if self._taking is None:
            return
        channel, deadline_us = self._taking
        at_us = now_us()
        if arrived := self._party.receive(channel, 1):
            say(self._stream, {"from": arrived[0].identity, "data": arrived[0].data.hex(), "at_us": at_us})
        elif at_us > deadline_us:
            say(self._stream, {"error": f"nothing came on channel {channel} in time; last events: {self._events[-4:]}"})
        else:
            return
        self._taking = None

    def _look(self) -> None:
        at_us = now_us()
        if at_us < self._look_at_us:
            return
        self._look_at_us = at_us + _LOOK_US
        for identity, before in self._known.items():
            standing = self._party.standing(identity)
            seen = (standing.state, standing.route) if standing else (0, "")
            if seen != before:
                self._known[identity] = seen
                values = asdict(standing) if standing else {"state": 0}
                self._events.append({"kind": "standing", "identity": identity, "at_us": at_us, "route": seen[1], **values})
