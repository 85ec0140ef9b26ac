"""What was sent and what became of it: the facts that the delivery checkers (V1-V4) judge by.

Every message that an application sends is a `Sent` record; its payload begins with the record's number, so that a receiver's
message finds its record, and goes on with a marker and a fixed pattern, so that altered bytes are seen. A reliable message is
settled when it is delivered, or covered by the count of a `SessionFailed`, or excused: lost with its sender's memory, or taken
and thrown away by a receiver that closed or crashed with unread messages. Closing excuses no sender: what he let go of is
delivered all the same, or covered by the report that follows.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

from peergram.config import UNRELIABLE_SEND_BYTES_MAX
from peergram.events import Message

NUMBER_BYTES = 4
"""A shorter payload is ambiguous: many messages may look the same."""
MARKER = b"plain-text-mark!"
"""Stands in every payload long enough; must never be seen on a link (V10)."""
MARKED_BYTES_MIN = NUMBER_BYTES + len(MARKER)

_NUMBER = struct.Struct("<I")
_PATTERN_BYTES = 1 << 20
_PATTERN_STEP = 61
_PATTERN = Random("pattern").randbytes(_PATTERN_BYTES)

NEVER_US = -1


@dataclass(slots=True)
class Sent:
    """One message accepted by a sender's `send_message`; hosts are indices, `run` counts the sender's restarts."""

    number: int
    sender: int
    run: int
    to: str
    receiver: int
    channel: int
    reliable: bool
    payload: bytes
    at_us: int
    sequence: int = 0
    """Position among the reliable messages of its flow."""
    delivered_at_us: int = NEVER_US
    excuse: str = ""
    """Why it need not arrive although nobody reported it."""
    let_go: bool = False
    """Its sender closed the session before it arrived; a report after closing covers it if it never does."""

    @property
    def is_ambiguous(self) -> bool:
        """Too short to carry its number."""
        return len(self.payload) < NUMBER_BYTES

    @property
    def is_delivered(self) -> bool:
        """Whether the receiving application has it."""
        return self.delivered_at_us != NEVER_US


@dataclass(slots=True)
class Failure:
    """A `SessionFailed` that a sender was told, with the number of unconfirmed messages it named, and their bytes."""

    at_us: int
    messages: int
    bytes: int
    reason: int
    after: int = 0
    """Records that existed then."""


@dataclass(slots=True)
class Flow:
    """The reliable messages of one sender run to one name on one channel, in order."""

    records: list[Sent] = field(default_factory=list)
    passed: dict[str, int] = field(default_factory=dict)
    """How far each session of the receiver is, by the name he knows it by: an old one may still be draining beside a new one."""


@dataclass(slots=True)
class Talk:
    """Everything reliable that one sender run sent to one name, and the failures it was told under that name."""

    who: tuple[int, int, int]
    """Sender, its run, receiver."""
    records: list[Sent] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    reported_after_closing: int = 0
    """Unconfirmed messages of the reports about sessions that the sender closed himself."""

    @property
    def reported(self) -> int:
        """Unconfirmed messages of all reports."""
        return self.reported_after_closing + sum(failure.messages for failure in self.failures)


@dataclass(slots=True)
class _Closing:
    """Messages sent up to `until_us` may have been taken and thrown away by the receiver's application."""

    until_us: int
    channel: int | None


class Ledger:
    """All records of a run; the world writes, the checkers read."""

    def __init__(self) -> None:
        self.records: list[Sent] = []
        self.flows: dict[tuple[int, int, str, int], Flow] = defaultdict(Flow)
        self.talks: dict[tuple[int, int, str], Talk] = {}
        self._drafts = 0
        self._undelivered: dict[tuple[int, int, bytes], list[Sent]] = defaultdict(list)
        self._delivered: dict[tuple[int, int, bytes], Sent] = {}
        self._boundary_us: dict[tuple[int, int], int] = {}
        self._closings: dict[tuple[int, int], list[_Closing]] = defaultdict(list)

    def payload(self, size_bytes: int) -> bytes:
        """The payload of the next message; unique if it is at least 4 bytes long."""
        self._drafts += 1
        start = self._drafts * _PATTERN_STEP % (_PATTERN_BYTES // 2)
        if size_bytes < MARKED_BYTES_MIN:
            return (_NUMBER.pack(self._drafts) + _PATTERN[start : start + MARKED_BYTES_MIN])[:size_bytes]
        return _NUMBER.pack(self._drafts) + MARKER + _PATTERN[start : start + size_bytes - MARKED_BYTES_MIN]

    def accepted(self, record: Sent) -> None:
        """`send_message` took this message."""
        record.number = len(self.records)
        self.records.append(record)
        self._undelivered[record.receiver, record.channel, record.payload].append(record)
        talk_key = (record.sender, record.run, record.to)
        talk = self.talks.get(talk_key)
        if talk is None:
            talk = self.talks[talk_key] = Talk((record.sender, record.run, record.receiver))
        if not record.reliable:
            return
        flow = self.flows[(*talk_key, record.channel)]
        record.sequence = len(flow.records)
        flow.records.append(record)
        talk.records.append(record)

    def flow_of(self, record: Sent) -> Flow:
        """The flow that a reliable record belongs to."""
        return self.flows[record.sender, record.run, record.to, record.channel]

    def find(self, receiver: int, channel: int, message: Message, senders: frozenset[int], to: str) -> Sent | None:
        """The undelivered record that this message is, or None: then `find_delivered` may know it.

        Short messages look alike; then the best guess is one sent as reliably, to the name `to`, not yet passed, not given up.
        """
        alike = self._undelivered.get((receiver, channel, message.payload), ())

        def unlikeliness(record: Sent) -> tuple[bool, bool, bool, bool]:
            is_passed = record.reliable and record.sequence < self.flow_of(record).passed.get(message.identity.text, 0)
            return record.reliable != message.reliable, record.to != to, is_passed, self._is_given_up(record)

        return min((record for record in alike if record.sender in senders), key=unlikeliness, default=None)

    def find_delivered(self, receiver: int, channel: int, payload: bytes) -> Sent | None:
        """The record of this message if it was delivered before."""
        return self._delivered.get((receiver, channel, payload))

    def find_altered(self, payload: bytes) -> Sent | None:
        """The record whose number stands at the beginning of a payload that no record has."""
        if len(payload) < NUMBER_BYTES:
            return None
        draft = _NUMBER.unpack_from(payload)[0]
        return next((r for r in self.records if r.payload[:NUMBER_BYTES] == _NUMBER.pack(draft)), None)

    def delivered(self, record: Sent, session: str, now_us: int) -> None:
        """The receiving application has got this message, from whom it knows by this name."""
        key = (record.receiver, record.channel, record.payload)
        self._undelivered[key].remove(record)
        self._delivered[key] = record
        record.delivered_at_us = now_us
        if record.reliable and not record.is_ambiguous:
            passed = self.flow_of(record).passed
            passed[session] = max(passed.get(session, 0), record.sequence + 1)

    def boundary(self, one: int, other: int, at_us: int) -> None:
        """A session between these hosts ended about now: later messages may follow a gap."""
        pair = (min(one, other), max(one, other))
        self._boundary_us[pair] = max(at_us, self._boundary_us.get(pair, NEVER_US))

    def boundary_us(self, one: int, other: int) -> int:
        """When the last such end was, or -1."""
        return self._boundary_us.get((min(one, other), max(one, other)), NEVER_US)

    def failed(self, sender: int, run: int, to: str, receiver: int, failure: Failure) -> None:
        """A sender was told that its session to `to` failed."""
        talk = self.talks.setdefault((sender, run, to), Talk((sender, run, receiver)))
        failure.after = len(self.records)
        talk.failures.append(failure)
        self.boundary(sender, receiver, failure.at_us)

    def reported_after_closing(self, sender: int, run: int, to: str, receiver: int, messages: int) -> None:
        """A sender that closed a session itself was told how much of it was not confirmed."""
        talk = self.talks.setdefault((sender, run, to), Talk((sender, run, receiver)))
        talk.reported_after_closing += messages

    def sender_closed(self, sender: int, run: int, receiver: int) -> None:
        """A sender closed his session with this receiver, under whichever of his names: it goes on in the background for a while,
        and what is unconfirmed then is reported."""
        for record in self._open_records(sender, run, receiver):
            record.let_go = True

    def sender_crashed(self, sender: int, run: int) -> None:
        """A sender lost its memory."""
        for receiver in {talk.who[2] for talk in self.talks.values() if talk.who[:2] == (sender, run)}:
            for record in self._open_records(sender, run, receiver):
                record.excuse = "sender crashed"

    def _open_records(self, sender: int, run: int, receiver: int) -> list[Sent]:
        """What is neither delivered nor excused nor of a session that failed before; of the instant of that failure, nobody can
        say which session it was in, and it is excused."""
        talks = self._talks_of(sender, run, receiver)
        last = max((failure for talk in talks for failure in talk.failures), key=lambda failure: failure.after, default=None)
        open_records: list[Sent] = []
        for record in [record for talk in talks for record in talk.records if not record.is_delivered and not record.excuse]:
            if last is None or record.number >= last.after:
                open_records.append(record)
            elif record.at_us == last.at_us:
                record.excuse = "sent in the instant of a failure"
        return open_records

    def receiver_closed(self, receiver: int, sender: int, until_us: int, channel: int | None = None) -> None:
        """A receiver throws away what that sender sent until then, as far as it took it (on one channel or all)."""
        self._closings[receiver, sender].append(_Closing(until_us, channel))

    def is_excused(self, record: Sent) -> bool:
        """Whether an application or a crash threw it away, or may have."""
        return bool(record.excuse) or self._is_thrown_away(record)

    def _is_thrown_away(self, record: Sent) -> bool:
        """Whether its receiver may have taken it and thrown it away unread."""
        return any(
            record.at_us <= closing.until_us and closing.channel in (None, record.channel)
            for closing in self._closings.get((record.receiver, record.sender), ())
        )

    def _is_given_up(self, record: Sent) -> bool:
        """Whether its session ended after it was sent, so that it probably never arrives."""
        failures = self.talks[record.sender, record.run, record.to].failures
        return record.let_go or self.is_excused(record) or bool(failures and record.number < failures[-1].after)

    def missing(self, talk: Talk) -> list[Sent]:
        """Records of a talk whose loss nobody was told.

        An endpoint may know one peer under two names (dialed, and by his certificate) and report under either: what is missing
        under one may be covered by what was reported too much under the others. Messages that look alike may have been taken for
        one another in the same way.
        """
        missing = self._missing_by_failures(talk) + self._missing_after_closing(talk)
        aliases = self._talks_of(*talk.who)
        if not missing or (len(aliases) == 1 and not any(record.is_ambiguous for record in missing)):
            return missing
        lost = sum(self._is_lost(record) for other in aliases for record in other.records)
        return missing if lost > sum(other.reported for other in aliases) else []

    def reported_and_accepted(self, sender: int, run: int, receiver: int) -> tuple[int, int]:
        """How many messages were reported as unconfirmed, and how many sent that could be, under all names of the receiver."""
        reported = sum(talk.reported for talk in self._talks_of(sender, run, receiver))
        return reported, len(self._reportable(sender, run, receiver))

    def sent_since_failure(self, sender: int, run: int, receiver: int) -> int:
        """How many messages a failure of now may name: those sent since the one before it, and at the instant of that.

        Under two names of one peer there may be two sessions, and a failure of one says nothing about the other.
        """
        talks, sent = self._talks_of(sender, run, receiver), self._reportable(sender, run, receiver)
        if len(talks) != 1 or not talks[0].failures:
            return len(sent)
        last = talks[0].failures[-1]
        return sum(record.number >= last.after or record.at_us == last.at_us for record in sent)

    def _reportable(self, sender: int, run: int, receiver: int) -> list[Sent]:
        sent = [r for r in self.records if (r.sender, r.run, r.receiver) == (sender, run, receiver)]
        return [record for record in sent if record.reliable or len(record.payload) > UNRELIABLE_SEND_BYTES_MAX]

    def _talks_of(self, sender: int, run: int, receiver: int) -> list[Talk]:
        return [talk for talk in self.talks.values() if talk.who == (sender, run, receiver)]

    def failure_count(self, sender: int, run: int, receiver: int) -> int:
        """How often this sender was told that a session with that receiver failed."""
        return sum(len(talk.failures) for talk in self._talks_of(sender, run, receiver))

    def _is_lost(self, record: Sent) -> bool:
        return not record.is_delivered and not self.is_excused(record)

    def _missing_by_failures(self, talk: Talk) -> list[Sent]:
        """Records of a talk that are neither delivered nor excused nor covered by the count of the next failure after them.

        A record of the very instant of a failure may belong to the session after it, and then waits for the next one.
        """
        lost = [record for record in talk.records if self._is_lost(record) and not record.let_go]
        missing: list[Sent] = []
        for failure in talk.failures:
            before = [r for r in lost if r.number < failure.after]
            uncovered = before[max(failure.messages, 0) :]
            missing += [r for r in uncovered if r.at_us < failure.at_us]
            lost = [r for r in uncovered if r.at_us == failure.at_us] + lost[len(before) :]
        return missing + lost

    def _missing_after_closing(self, talk: Talk) -> list[Sent]:
        """What the sender let go of, and no report after closing covers.

        Two reports of one instant are told as one: what a failure named beyond the losses before it counts as well.
        """
        let_go = [record for record in talk.records if record.let_go and self._is_lost(record)]
        covered, first = talk.reported_after_closing, 0
        for failure in talk.failures if let_go else ():
            before = [r for r in talk.records if first <= r.number < failure.after and self._is_lost(r) and not r.let_go]
            if failure.after > let_go[0].number:
                covered += max(failure.messages - len(before), 0)
            first = failure.after
        return let_go[covered:]

    def too_few_bytes(self, talk: Talk) -> tuple[int, int] | None:
        """(bytes reported, bytes lost) of a failure that named fewer bytes than were lost before it, if there is one.

        Under two names of one peer, nobody can say which report covers what.
        """
        if len(self._talks_of(*talk.who)) > 1:
            return None
        first = 0
        for failure in talk.failures:
            covered = [r for r in talk.records if first <= r.number < failure.after and r.at_us < failure.at_us]
            covered = [record for record in covered if not record.is_ambiguous]
            lost_bytes = sum(len(record.payload) for record in covered if self._is_lost(record) and not record.let_go)
            if failure.bytes < lost_bytes:
                return failure.bytes, lost_bytes
            first = failure.after
        return None

    def unsettled(self) -> list[Sent]:
        """Every reliable record whose fate is open: what phase 2 waits for."""
        return [record for talk in self.talks.values() for record in self.missing(talk)]
