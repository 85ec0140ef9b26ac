"""The books over reliable messages: for each one that was accepted, where it is now.

A message that a running process handed in is, at any moment, in exactly one of three places:

* **open**: its connection lives, and nobody has confirmed it (`Connection.unconfirmed`; a receipt says `pending`);
* **unconfirmed**: its session is over and a `SessionFailed` counted it, once (a receipt says `unconfirmed`). It may have arrived
  all the same, if only the acknowledgement was lost;
* **delivered**: the peer's library acknowledged it, or said so when it closed. From that moment on the peer's program has read it
  or can, unless that side threw it away itself: by closing the session or the channel, or by ending.

Nobody reads a message twice, and those of one process and channel are read in the order in which they were sent, as far as they
come under one name: who calls an address that calls him may be known by the address, and by his name in the next session.

The books know hosts only as `Party`, so that the same rules hold in every world that has some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from peergram.connection.connection import Connection
from peergram.endpoint.endpoint import Endpoint
from peergram.endpoint.link import Link
from peergram.errors import Result
from peergram.events import ConnectionInfo, Message, Receipt, SessionFailed
from peergram.identity import Identity


class Party(Protocol):
    """A host as books and programs see it: at most one process, which accepts by itself, and reads unless told not to."""

    identity: Identity
    dialed: Identity
    """The name by which the other one reaches it."""
    reads: bool
    received: list[Message]
    failures: list[SessionFailed]
    told: list[Receipt]

    @property
    def running(self) -> Endpoint | None: ...
    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def links(self) -> list[Link]: ...
    @property
    def live(self) -> list[Connection]: ...
    def start(self, *, new_key: bool = False) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...
    def drain(self) -> None: ...
    def read(self, channel: int = 0, messages_max: int = 1_000_000) -> list[Message]: ...
    def send(self, to: Identity, data: bytes, flags: int, channel: int = 0) -> Result: ...
    def send_with_receipt(self, to: Identity, data: bytes, flags: int, channel: int = 0) -> tuple[Result, Receipt | None]: ...
    def close_session(self, who: Identity) -> bool: ...
    def close_channel(self, who: Identity, channel: int) -> bool: ...
    def info(self, who: Identity) -> ConnectionInfo | None: ...


@dataclass
class Sent:
    """One reliable message that was accepted."""

    number: int
    sender: Party
    sender_run: int
    receiver: Party
    channel: int
    data: bytes
    receipt: Receipt | None
    was_discarded: bool = False
    """Whether the receiving side had all of it and threw it away unread."""
    was_read: bool = False
    was_taken: bool = False
    """Whether the receiving side ever had all of it."""


@dataclass
class Run:
    """One process of a host."""

    number: int
    sent: list[Sent] = field(default_factory=list)


class Books:
    """What two hosts hand in and read, with everything they are told."""

    def __init__(self, hosts: Sequence[Party], *, all_have_receipts: bool) -> None:
        self.hosts = list(hosts)
        self.all_have_receipts = all_have_receipts
        self.runs = {host: Run(0) for host in self.hosts}
        self._messages: list[Sent] = []
        self._read_from: dict[Party, int] = dict.fromkeys(self.hosts, 0)
        self._newest: dict[tuple[Party, int, Party, int, int, Identity], int] = {}
        for host in self.hosts:
            host.endpoint.tell_receipts(tells=True)

    # --- what happens ---

    def send(self, sender: Party, receiver: Party, size: int, flags: int, channel: int, *, by_name: bool, receipt: bool) -> None:
        """Hand in one reliable message."""
        number = len(self._messages)
        mark = b"%08d" % number
        data = mark + bytes(size - 16) + mark if size >= 16 else mark
        to = receiver.identity if by_name else receiver.dialed
        ticket: Receipt | None = None
        if receipt or self.all_have_receipts:
            result, ticket = sender.send_with_receipt(to, data, flags, channel)
            assert (ticket is not None) == (result == Result.OK)
        else:
            result = sender.send(to, data, flags, channel)
        if result == Result.OK:
            run = self.runs[sender]
            sent = Sent(number, sender, run.number, receiver, channel, data, ticket)
            run.sent.append(sent)
            self._messages.append(sent)

    def start(self, host: Party, *, new_key: bool) -> None:
        """A new process: nobody asks any more what became of the messages of the one before."""
        self.runs[host] = Run(self.runs[host].number + 1)
        host.failures.clear()
        host.told.clear()
        host.start(new_key=new_key)
        host.endpoint.tell_receipts(tells=True)

    def note_discarded(self, receiver: Party, channel: int | None = None) -> None:
        """This side is about to throw away what it has not read, of one channel or of all."""
        self.note_read()
        self._note_taken(receiver)
        held = b"".join(_held(receiver))
        for sent in self._messages:
            if sent.receiver is receiver and channel in (None, sent.channel) and not sent.was_read and sent.data in held:
                sent.was_discarded = True

    def _note_taken(self, receiver: Party) -> None:
        """Enter what is there for a program to read, now."""
        held = b"".join(_held(receiver)) if receiver.running is not None else b""
        for sent in self._messages:
            if sent.receiver is receiver and not sent.was_taken:
                sent.was_taken = sent.was_read or sent.data in held

    def note_read(self) -> None:
        """Enter what the programs have read since the last time."""
        for host in self.hosts:
            for message in host.received[self._read_from[host] :]:
                sent = self._messages[int(message.payload[:8])] if message.reliable else None
                if sent is None:
                    continue
                assert sent.receiver is host
                assert (message.channel, message.payload) == (sent.channel, sent.data)
                assert not sent.was_read, "read twice"
                sent.was_read = True
                stream = (sent.sender, sent.sender_run, host, self.runs[host].number, sent.channel, message.identity)
                assert sent.number > self._newest.get(stream, -1), "out of order"
                self._newest[stream] = sent.number
            self._read_from[host] = len(host.received)

    # --- what must hold ---

    def check(self) -> None:
        """The books balance, at any moment."""
        self.note_read()
        for host, run in self.runs.items():
            if host.running is not None:
                self._check_run(host, run)

    def _check_run(self, host: Party, run: Run) -> None:
        states = {"pending": 0, "delivered": 0, "unconfirmed": 0}
        lost_bytes = settled = 0
        for sent in run.sent:
            if sent.receipt is not None:
                states[sent.receipt.state] += 1
                settled += sent.receipt.state != "pending"
                lost_bytes += len(sent.data) if sent.receipt.state == "unconfirmed" else 0
                assert bool(sent.receipt.debug) == (sent.receipt.state == "unconfirmed")
        assert len(host.told) == len(set(map(id, host.told))) == settled, "each settled receipt is told once"
        reported = sum(failure.unconfirmed.messages for failure in host.failures)
        reported_bytes = sum(failure.unconfirmed.bytes for failure in host.failures)
        assert all(failure.reason and failure.debug for failure in host.failures), "each report says why"
        still_open = sum(connection.unconfirmed.messages for connection in host.live)
        assert still_open + reported <= len(run.sent), "reported twice, or invented"
        if self.all_have_receipts:
            assert states["pending"] == still_open, f"{still_open} open, {states}"
            assert states["unconfirmed"] == reported, f"{reported} reported, {states}"
            assert lost_bytes == reported_bytes, f"{reported_bytes} bytes reported, {lost_bytes} lost"
        else:
            assert states["pending"] <= still_open, f"{still_open} open, {states}"
            assert states["unconfirmed"] <= reported, f"{reported} reported, {states}"
        self._check_delivered(run, len(run.sent) - still_open - reported)

    def _check_delivered(self, run: Run, delivered: int) -> None:
        """As many as are neither open nor reported have reached a receiver's library, those among them whose receipt says so."""
        for receiver in {sent.receiver: None for sent in run.sent if not sent.was_taken}:
            self._note_taken(receiver)
        taken = sum(sent.was_taken for sent in run.sent)
        assert delivered <= taken, f"silently lost: {delivered} taken for delivered, {taken} were there"
        for sent in run.sent:
            assert sent.was_taken or sent.receipt is None or sent.receipt.state != "delivered", f"never there: {sent}"

    @property
    def any_open(self) -> bool:
        """Whether anybody still waits for a confirmation."""
        running = [host for host in self.hosts if host.running is not None]
        return any(connection.unconfirmed.messages for host in running for connection in host.live)

    def check_at_the_end(self) -> None:
        """Everybody is there, reads, and had time: nothing is open, and what was not read is reported or was thrown away."""
        self.check()
        assert not self.any_open, "still open"
        for host, run in self.runs.items():
            missing = [sent for sent in run.sent if not sent.was_read and not sent.was_discarded]
            reported = sum(failure.unconfirmed.messages for failure in host.failures)
            assert len(missing) <= reported, f"silently lost: {missing}"
            for sent in missing:
                assert sent.receipt is None or sent.receipt.state == "unconfirmed", f"delivered, but never there: {sent}"


def _held(host: Party) -> Iterator[bytes]:
    """Everything that a host's library has without a gap and its program has not read."""
    for _, message in host.endpoint._inbox.waiting():
        yield message.payload
    draining = [link for peer in host.endpoint._peers.values() for link in peer.draining]
    for link in dict.fromkeys((*host.links, *draining)):
        flow = link.connection.flow
        if flow is None:
            continue
        for _, _, _, messages, _ in flow.delivered:
            yield from messages
        for lane in flow.receive_lanes.values():
            yield b"".join(lane.reliable._pieces)[lane.reliable._front_at :]
