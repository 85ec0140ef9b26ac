"""The books over reliable messages: for each one that was accepted, where it is now.

A message that a running process handed in is, at any moment, in exactly one of three places:

* **open**: its connection lives, and nobody has confirmed it (`Connection.unconfirmed`; a receipt says `pending`);
* **unconfirmed**: its session is over and a `SessionFailed` counted it, once (a receipt says `unconfirmed`). It may have arrived
  all the same, if only the acknowledgement was lost;
* **delivered**: the peer's library acknowledged it, or said so when it closed. Then the peer's program has read it or can, unless
  that side threw it away itself: by closing the session or the channel, or by ending.

Nobody reads a message twice, and of one process and channel they are read in the order in which they were sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from peergram.errors import Result
from peergram.events import Receipt
from tests.endpoint.world import Host, World


@dataclass
class Sent:
    """One reliable message that was accepted."""

    number: int
    sender: Host
    sender_run: int
    receiver: Host
    channel: int
    data: bytes
    receipt: Receipt | None
    was_discarded: bool = False
    """Whether the receiving side had all of it and threw it away unread."""
    was_read: bool = False


@dataclass
class Run:
    """One process of a host."""

    number: int
    sent: list[Sent] = field(default_factory=list)


class Books:
    """What two hosts hand in and read, with everything they are told."""

    def __init__(self, world: World, *, all_have_receipts: bool) -> None:
        self.world = world
        self.all_have_receipts = all_have_receipts
        self.runs = {host: Run(0) for host in world.hosts}
        self._messages: list[Sent] = []
        self._read_from: dict[Host, int] = dict.fromkeys(world.hosts, 0)
        self._newest: dict[tuple[Host, int, Host, int, int], int] = {}
        for host in world.hosts:
            host.endpoint.tell_receipts(tells=True)

    # --- what happens ---

    def send(self, sender: Host, receiver: Host, size: int, flags: int, channel: int, *, by_name: bool, receipt: bool) -> None:
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

    def start(self, host: Host, *, new_key: bool) -> None:
        """A new process: nobody asks any more what became of the messages of the one before."""
        self.runs[host] = Run(self.runs[host].number + 1)
        host.failures.clear()
        host.told.clear()
        host.start(new_key=new_key)
        host.endpoint.tell_receipts(tells=True)

    def note_discarded(self, receiver: Host, channel: int | None = None) -> None:
        """This side is about to throw away what it has not read, of one channel or of all."""
        self.note_read()
        held = b"".join(_held(receiver))
        for sent in self._messages:
            if sent.receiver is receiver and channel in (None, sent.channel) and not sent.was_read and sent.data in held:
                sent.was_discarded = True

    def note_read(self) -> None:
        """Enter what the programs have read since the last time."""
        for host in self.world.hosts:
            for message in host.received[self._read_from[host] :]:
                sent = self._messages[int(message.payload[:8])] if message.reliable else None
                if sent is None:
                    continue
                assert sent.receiver is host
                assert (message.channel, message.payload) == (sent.channel, sent.data)
                assert not sent.was_read, "read twice"
                sent.was_read = True
                stream = (sent.sender, sent.sender_run, host, self.runs[host].number, sent.channel)
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

    def _check_run(self, host: Host, run: Run) -> None:
        states = {"pending": 0, "delivered": 0, "unconfirmed": 0}
        lost_bytes = settled = 0
        for sent in run.sent:
            if sent.receipt is not None:
                states[sent.receipt.state] += 1
                settled += sent.receipt.state != "pending"
                lost_bytes += len(sent.data) if sent.receipt.state == "unconfirmed" else 0
                assert bool(sent.receipt.debug) == (sent.receipt.state == "unconfirmed")
        assert len(host.told) == len(set(map(id, host.told))) == settled, "each settled receipt is told once"
        reported = host.lost.messages
        still_open = sum(connection.unconfirmed.messages for connection in host.live)
        assert still_open + reported <= len(run.sent), "reported twice, or invented"
        if self.all_have_receipts:
            assert states["pending"] == still_open
            assert states["unconfirmed"] == reported
            assert lost_bytes == host.lost.bytes
        else:
            assert states["pending"] <= still_open
            assert states["unconfirmed"] <= reported

    def check_at_the_end(self) -> None:
        """Everybody is there, reads, and had time: nothing is open, and what was not read is reported or was thrown away."""
        self.check()
        for host, run in self.runs.items():
            assert not any(connection.unconfirmed.messages for connection in host.live)
            missing = [sent for sent in run.sent if not sent.was_read and not sent.was_discarded]
            assert len(missing) <= host.lost.messages, f"silently lost: {missing}"
            for sent in missing:
                assert sent.receipt is None or sent.receipt.state == "unconfirmed", f"delivered, but never there: {sent}"


def _held(host: Host) -> Iterator[bytes]:
    """Everything that a host's library has without a gap and its program has not read."""
    for _, message in host.endpoint._inbox.waiting():
        yield message.payload
    draining = [link for peer in host.endpoint._peers.values() for link in peer.draining]
    for link in dict.fromkeys((*host.links, *draining)):
        for lane in link.connection.flow.receive_lanes.values() if link.connection.flow is not None else ():
            yield b"".join(lane.reliable._pieces)[lane.reliable._front_at :]
