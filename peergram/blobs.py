"""Blobs: data of any size between two identities, on a channel of its own, with flow control, resumption and a checksum.

`Messages` and `peergram.aio` run the same steps: a generator sends and receives messages by itself, and yields where it must wait
(`Wait`) or where something would hold up the network's work for long (`Work`).

Every blob is a row of reliable messages on one channel. All begin with a type (one byte) and the transfer's id (8 random bytes,
made by the sender); numbers are little endian, 8 bytes:

    1 OFFER   sender    SHA-256 of the whole (32 bytes), size, name (UTF-8)
    2 WANT    receiver  offset: send from here on; the answer to an offer, or to a gap
    3 DATA    sender    offset, bytes (at most 32 KiB)
    4 HAVE    receiver  offset: everything before has been taken; the sender is at most 512 KiB ahead of it
    5 DONE    receiver  code (one byte: 0 whole and correct, 1 wrong checksum, 2 refused), a sentence
    6 CANCEL  sender    nothing more

After a session broke the sender makes his offer again, and the receiver wants what is missing: he knows the blob by its checksum,
so that this works after a restart of either program too, where he keeps the beginning in a file. Until the sender's library has
DONE, which a receipt tells, the receiver answers offers of that transfer also while its program receives no blob.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import struct
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import IO, Final, TypeVar

from peergram.config import (
    BLOB_BYTES_IN_MEMORY_MAX,
    BLOB_CHUNK_BYTES,
    BLOB_FINISHED_MAX,
    BLOB_NAME_BYTES_MAX,
    BLOB_OFFERS_MAX,
    BLOB_RETRY_US,
    BLOB_WINDOW_BYTES,
)
from peergram.endpoint.endpoint import Endpoint
from peergram.errors import BlobError, Result, UsageError
from peergram.events import ConnectionState, Message, Receipt, SendFlags
from peergram.identity import Identity
from peergram.timing import NEVER

BlobSource = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes]
"""Data itself, a path, or a binary file object that can seek."""
Sink = str | os.PathLike[str] | IO[bytes] | None
"""A path, a binary file object to write to, or None for memory."""
Progress = Callable[[int, int], object]
"""Called with the bytes that the receiver has, and the size."""
T = TypeVar("T")

_OFFER, _WANT, _DATA, _HAVE, _DONE, _CANCEL = 1, 2, 3, 4, 5, 6
_ID_BYTES: Final = 8
_HEAD: Final = struct.Struct("<B8s")
_NUMBER: Final = struct.Struct("<Q")
_DIGEST_BYTES: Final = 32
_HASH_BYTES_AT_ONCE: Final = 1 << 20
_MESSAGES_AT_ONCE: Final = 8
_CORRECT, _WRONG, _REFUSED = 0, 1, 2
_RELIABLE = int(SendFlags.RELIABLE)
_RESTART = int(SendFlags.AUTO_RESTART_BROKEN_SESSION)
_LIVE = (ConnectionState.CONNECTING, ConnectionState.FINDING_ROUTE, ConnectionState.CONNECTED)
_BROKEN = (ConnectionState.CLOSED_BY_PEER, ConnectionState.PROBLEM_DETECTED_LOCALLY)


@dataclass(frozen=True, slots=True)
class Blob:
    """What was received, whole and with the right checksum."""

    identity: Identity
    name: str
    """What the sender calls it; never used as a path here, and nothing to trust as one."""
    size: int
    sha256: str
    """In hexadecimal."""
    data: bytes | None = None
    """None if it went to a path or file object."""


@dataclass(slots=True)
class Wait:
    """Go on once `wanted()`, or at `until_us`."""

    wanted: Callable[[], bool]
    until_us: int = NEVER


@dataclass(slots=True)
class Work:
    """Call this where it may take its time, then go on."""

    run: Callable[[], object]


Steps = Generator[Wait | Work, None, T]


class BlobPort:
    """What blobs need of a dress: its endpoint, and how to give it commands."""

    def __init__(self, endpoint: Endpoint, call: Callable[[Callable[[int], object]], object], look: Callable[[], None]) -> None:
        self.endpoint = endpoint
        self._call = call
        self.look = look
        """Have others who wait look again."""
        self._desks: dict[int, _Desk] = {}
        self._lock = threading.RLock()
        self.owing: list[_Desk] = []
        """Where a sender may not know yet how his blob ended; call `answer` now and then while there are any."""

    def desk(self, channel: int) -> _Desk:
        """Where the blobs of a channel come together."""
        with self._lock:
            return self._desks.setdefault(channel, _Desk(self, channel))

    def note_owing(self, desk: _Desk) -> None:
        """That desk has told a sender how his blob ended, and he need not have heard it."""
        with self._lock:
            if desk not in self.owing:
                self.owing.append(desk)

    @property
    def may_answer(self) -> bool:
        """Whether `answer` would do something; quick, and may be asked with the driver's lock held."""
        return any(desk.may_answer for desk in list(self.owing))

    def answer(self) -> None:
        """Tell those who have not heard it."""
        for desk in list(self.owing):
            if not desk.answer():
                with self._lock:
                    self.owing.remove(desk)

    def call(self, command: Callable[[int], T]) -> T:
        """Run a command of the endpoint."""
        answers: list[T] = []
        self._call(lambda now_us: answers.append(command(now_us)))
        return answers[0]

    def now_us(self) -> int:
        """The time as the endpoint has it."""
        return self.call(lambda now_us: now_us)

    def state(self, who: Identity) -> ConnectionState:
        """How the session is."""
        known = self.endpoint.connection_info(who, 0)
        return ConnectionState.NONE if known is None else known.state


class _Answer:
    """How a transfer ended, as its sender was told."""

    __slots__ = ("message", "receipt", "who")

    def __init__(self, who: Identity, message: bytes) -> None:
        self.who = who
        self.message = message
        self.receipt: Receipt | None = None
        """Of the last time it was said; None while it could not be."""

    @property
    def is_owed(self) -> bool:
        """Whether it has to be said once more, at the latest when he asks."""
        return self.receipt is None or self.receipt.state == "unconfirmed"


class _Desk:
    """One channel: hands messages to the transfers that they belong to, whoever of them reads."""

    def __init__(self, port: BlobPort, channel: int) -> None:
        self.port = port
        self.channel = channel
        self.lock = threading.RLock()
        self.outgoing: dict[bytes, _Outgoing] = {}
        self.incoming: list[_Incoming] = []
        self.offers: deque[_Offer] = deque(maxlen=BLOB_OFFERS_MAX)
        self.finished: OrderedDict[tuple[Identity, bytes], _Answer] = OrderedDict()
        """What was answered to transfers that are over, should the answer have been lost."""

    def pump(self) -> None:
        """Take what has come; the lock keeps several threads from mixing up its order."""
        endpoint, channel = self.port.endpoint, self.channel
        taken = False
        with self.lock:
            while messages := self.port.call(lambda now_us: endpoint.receive_messages(channel, _MESSAGES_AT_ONCE, now_us)):
                taken = True
                for message in messages:
                    self._handle(message)
        if taken:
            self.port.look()

    def send(self, who: Identity, data: bytes, flags: int = _RELIABLE) -> Result:
        """One message of a transfer."""
        return self.port.call(lambda now_us: self.port.endpoint.send_message(who, data, flags, self.channel, now_us))

    def finish(self, offer: _Offer, code: int, text: str) -> None:
        """Tell the sender how it ended."""
        answer = _Answer(offer.identity, _encode(_DONE, offer.id, bytes((code,)) + text.encode()))
        with self.lock:
            self.finished[offer.identity, offer.id] = answer
            if len(self.finished) > BLOB_FINISHED_MAX:
                self.finished.popitem(last=False)
            self._say(answer)
        self.port.note_owing(self)

    def _say(self, answer: _Answer) -> None:
        _, answer.receipt = self.port.call(
            lambda now_us: self.port.endpoint.send_with_receipt(answer.who, answer.message, _RELIABLE, self.channel, now_us)
        )

    def answer(self) -> bool:
        """Tell those who may not have heard how their blobs ended, as far as that is possible; whether there are any left."""
        with self.lock:
            answers = list(self.finished.values())
            if any(answer.is_owed for answer in answers):
                self.pump()
            for answer in answers:
                if answer.receipt is None and self._reaches(answer):
                    self._say(answer)
            return any(answer.receipt is None or answer.receipt.state != "delivered" for answer in self.finished.values())

    @property
    def may_answer(self) -> bool:
        """Whether `answer` would do something."""
        # A copy, since another thread may add one.
        answers = list(self.finished.values())
        owed = [answer for answer in answers if answer.is_owed]
        if not owed:
            return not any(answer.receipt is not None and answer.receipt.state == "pending" for answer in answers)
        return self.port.endpoint.has_unread(self.channel) or any(
            answer.receipt is None and self._reaches(answer) for answer in owed
        )

    def _reaches(self, answer: _Answer) -> bool:
        return self.port.state(answer.who) in _LIVE and self.port.endpoint.has_room(answer.who)

    def take_offer(self, identity: Identity | None) -> _Offer | None:
        """The oldest offer that nobody has taken up, of this identity or of anyone."""
        with self.lock:
            offer = self._offer_of(identity)
            if offer is not None:
                self.offers.remove(offer)
        return offer

    def has_offer(self, identity: Identity | None) -> bool:
        """Whether `take_offer` would have one."""
        return self._offer_of(identity) is not None

    def _offer_of(self, identity: Identity | None) -> _Offer | None:
        # A copy, since another thread may add one.
        return next((offer for offer in list(self.offers) if identity is None or offer.identity == identity), None)

    def _handle(self, message: Message) -> None:
        payload = message.payload
        if len(payload) < _HEAD.size:
            return
        kind, transfer = _HEAD.unpack_from(payload)
        body = payload[_HEAD.size :]
        if kind == _OFFER:
            self._handle_offer(message.identity, transfer, body)
        elif kind in (_WANT, _HAVE, _DONE):
            outgoing = self.outgoing.get(transfer)
            if outgoing is not None:
                outgoing.handle(kind, body)
        elif kind in (_DATA, _CANCEL):
            for incoming in self.incoming:
                if incoming.offer.id == transfer and incoming.offer.identity == message.identity:
                    incoming.handle(kind, body)
            if kind == _CANCEL:
                for offer in [each for each in self.offers if (each.identity, each.id) == (message.identity, transfer)]:
                    self.offers.remove(offer)

    def _handle_offer(self, identity: Identity, transfer: bytes, body: bytes) -> None:
        if len(body) < _DIGEST_BYTES + _NUMBER.size or len(body) > _DIGEST_BYTES + _NUMBER.size + BLOB_NAME_BYTES_MAX:
            return
        if (answer := self.finished.get((identity, transfer))) is not None:
            self._say(answer)
            self.port.note_owing(self)
            return
        (size,) = _NUMBER.unpack_from(body, _DIGEST_BYTES)
        name = body[_DIGEST_BYTES + _NUMBER.size :].decode(errors="replace")
        offer = _Offer(identity, transfer, body[:_DIGEST_BYTES], size, name)
        for incoming in self.incoming:
            if incoming.takes_up(offer):
                return
        if offer not in self.offers:
            self.offers.append(offer)


@dataclass(frozen=True, slots=True)
class _Offer:
    identity: Identity
    id: bytes
    digest: bytes
    size: int
    name: str


class _SourceFile:
    """What is sent: read at any place, a little at a time."""

    def __init__(self, source: BlobSource) -> None:
        self._owned = False
        if isinstance(source, bytes | bytearray | memoryview):
            self._file: IO[bytes] = io.BytesIO(source)
        elif isinstance(source, str | os.PathLike):
            self._file = Path(source).open("rb")  # noqa: SIM115 - `close` does it
            self._owned = True
        elif hasattr(source, "seekable") and source.seekable():
            self._file = source
        else:
            raise UsageError("source: give bytes, a path, or a binary file object that can seek")
        self._begin = 0 if self._owned else self._file.tell()
        self.size = self._file.seek(0, os.SEEK_END) - self._begin
        self.digest = b""

    def find_digest(self) -> None:
        """Read all of it once."""
        found = hashlib.sha256()
        self._file.seek(self._begin)
        while data := self._file.read(_HASH_BYTES_AT_ONCE):
            found.update(data)
        self.digest = found.digest()

    def chunk_at(self, offset: int) -> bytes:
        """The next chunk."""
        self._file.seek(self._begin + offset)
        return self._file.read(min(BLOB_CHUNK_BYTES, self.size - offset))

    def close(self) -> None:
        if self._owned:
            self._file.close()


class _SinkFile:
    """Where a blob goes, with the checksum of what is there; at a path, the beginning outlives the program."""

    def __init__(self, into: Sink, offer: _Offer) -> None:
        self._path: Path | None = None
        self._part: Path | None = None
        if into is None:
            self._file: IO[bytes] = io.BytesIO()
        elif isinstance(into, str | os.PathLike):
            self._path = Path(into)
            self._part = self._path.with_name(f"{self._path.name}.{offer.digest.hex()[:16]}.part")
            self._file = self._part.open("a+b")
        else:
            self._file = into
        self._into = into
        self._size = offer.size
        self.position = 0
        self._hash = hashlib.sha256()

    def find_position(self) -> None:
        """Read what an earlier attempt has left."""
        if self._part is None:
            return
        self._file.seek(0)
        while data := self._file.read(_HASH_BYTES_AT_ONCE):
            self._hash.update(data)
            self.position += len(data)
        if self.position > self._size:
            self._file.truncate(0)
            self.position, self._hash = 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.position += len(data)

    def is_correct(self, digest: bytes) -> bool:
        return compare_digest(self._hash.digest(), digest)

    def keep(self) -> bytes | None:
        """It is whole: put it where it belongs; the data if that is memory."""
        self._file.flush()
        if isinstance(self._file, io.BytesIO) and self._into is None:
            return self._file.getvalue()
        if self._part is not None and self._path is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
        return None

    def leave(self, *, discard: bool) -> None:
        """It is not whole (yet)."""
        if self._part is not None:
            self._file.close()
            if discard:
                self._part.unlink(missing_ok=True)


class _Outgoing:
    """What is sent of one blob, and what the receiver says of it."""

    def __init__(self, source: _SourceFile, name: bytes) -> None:
        self.id = secrets.token_bytes(_ID_BYTES)
        self._source = source
        self._offer = _encode(_OFFER, self.id, source.digest + _NUMBER.pack(source.size) + name)
        self.is_offered = False
        self._is_wanted = False
        self._position = 0
        self.confirmed = 0
        self.has_news = False
        self.end: tuple[int, str] | None = None

    def has_ended(self) -> bool:
        """Whether the receiver has said how it ended."""
        return self.end is not None

    def restart(self) -> None:
        """The session is another one: nobody knows what arrived."""
        self.is_offered = self._is_wanted = False

    def next_message(self) -> bytes | None:
        """What may go now."""
        if not self.is_offered:
            return self._offer
        left = self._source.size - self._position
        if not self._is_wanted or not left or self._position - self.confirmed >= BLOB_WINDOW_BYTES:
            return None
        data = self._source.chunk_at(self._position)
        if not data:
            raise BlobError("the file has become shorter while it was sent: send it again")
        return _encode(_DATA, self.id, _NUMBER.pack(self._position) + data)

    def note_sent(self, message: bytes) -> None:
        """The message is on its way."""
        if message is self._offer:
            self.is_offered = True
        else:
            self._position += len(message) - _HEAD.size - _NUMBER.size

    def handle(self, kind: int, body: bytes) -> None:
        self.has_news = True
        if kind == _DONE:
            if body:
                self.end = body[0], body[1:].decode(errors="replace")
        elif len(body) == _NUMBER.size:
            (offset,) = _NUMBER.unpack(body)
            if kind == _WANT and offset <= self._source.size:
                self._position = self.confirmed = offset
                self._is_wanted = True
            elif kind == _HAVE and self.confirmed < offset <= self._position:
                self.confirmed = offset


class _Incoming:
    """One blob that comes in."""

    def __init__(self, offer: _Offer, sink: _SinkFile) -> None:
        self.offer = offer
        self.sink = sink
        self.answers: deque[bytes] = deque()
        self._confirmed = sink.position
        self._has_asked = False
        self.is_cancelled = False
        self.failure: Exception | None = None
        self._want()

    @property
    def is_whole(self) -> bool:
        return self.sink.position == self.offer.size

    @property
    def has_news(self) -> bool:
        return bool(self.answers) or self.is_whole or self.is_cancelled or self.failure is not None

    def takes_up(self, offer: _Offer) -> bool:
        """Whether this offer is of the same content, so that the transfer goes on with it."""
        if (offer.identity, offer.size) != (self.offer.identity, self.offer.size) or not compare_digest(
            offer.digest, self.offer.digest
        ):
            return False
        self.offer = offer
        self.answers.clear()
        self._want()
        return True

    def handle(self, kind: int, body: bytes) -> None:
        if kind == _CANCEL:
            self.is_cancelled = True
            return
        if len(body) <= _NUMBER.size:
            return
        (offset,) = _NUMBER.unpack_from(body)
        size = len(body) - _NUMBER.size
        if offset > self.sink.position and not self._has_asked:
            self._want()
            self._has_asked = True
        if offset != self.sink.position or offset + size > self.offer.size:
            return
        self._has_asked = False
        try:
            self.sink.write(body[_NUMBER.size :])
        except (OSError, ValueError) as error:
            self.failure = error
            return
        if self.sink.position - self._confirmed >= BLOB_WINDOW_BYTES // 4:
            self._confirmed = self.sink.position
            self.answers.append(_encode(_HAVE, self.offer.id, _NUMBER.pack(self.sink.position)))

    def _want(self) -> None:
        self._confirmed = self.sink.position
        self.answers.append(_encode(_WANT, self.offer.id, _NUMBER.pack(self.sink.position)))


def send_steps(
    port: BlobPort,
    who: Identity,
    source: BlobSource,
    *,
    channel: int,
    name: str,
    progress: Progress | None,
    give_up_after_s: float,
) -> Steps[None]:
    """Send a blob. Raises BlobError if the receiver refuses it, or nobody has been reached for `give_up_after_s`."""
    encoded = name.encode()
    if len(encoded) > BLOB_NAME_BYTES_MAX:
        raise UsageError(f"name: at most {BLOB_NAME_BYTES_MAX} bytes, not {len(encoded)}")
    file = _SourceFile(source)
    desk = port.desk(channel)
    try:
        yield Work(file.find_digest)
        outgoing = _Outgoing(file, encoded)
        desk.outgoing[outgoing.id] = outgoing
        try:
            yield from _send(port, desk, who, outgoing, file.size, progress, int(give_up_after_s * 1e6))
        finally:
            del desk.outgoing[outgoing.id]
            if outgoing.end is None and outgoing.is_offered:
                with suppress(Exception):
                    if port.state(who) in _LIVE:
                        desk.send(who, _encode(_CANCEL, outgoing.id))
    finally:
        file.close()
    code, text = outgoing.end or (_WRONG, "")
    if code != _CORRECT:
        raise BlobError(f"{who.printable} did not take the blob: {text}")
    if progress is not None:
        progress(file.size, file.size)


def _send(
    port: BlobPort, desk: _Desk, who: Identity, outgoing: _Outgoing, size: int, progress: Progress | None, patience_us: int
) -> Steps[None]:
    endpoint, channel = port.endpoint, desk.channel
    seen_at_us = port.now_us()
    told = -1
    while True:
        outgoing.has_news = False
        desk.pump()
        if outgoing.has_ended():
            return
        now_us = port.now_us()
        state = port.state(who)
        if state is ConnectionState.CONNECTED:
            seen_at_us = now_us
        elif now_us - seen_at_us > patience_us:
            raise BlobError(f"{who.printable} was not reached again: send the blob once more, and it goes on where it stopped")
        if progress is not None and outgoing.confirmed != told and outgoing.is_offered:
            told = outgoing.confirmed
            progress(told, size)
        if outgoing.is_offered and state not in _LIVE:
            outgoing.restart()
        if state in _BROKEN:
            yield Wait(lambda: False, now_us + BLOB_RETRY_US)
            desk.pump()
            if outgoing.has_ended():
                return
        message = outgoing.next_message()
        if message is not None and endpoint.has_room(who):
            # Not closed first: that would throw away what he sent on other channels, and how this blob ended.
            result = desk.send(who, message, _RELIABLE if outgoing.is_offered else _RELIABLE | _RESTART)
            if result is Result.OK:
                outgoing.note_sent(message)
                continue
            if result not in (Result.LIMIT_EXCEEDED, Result.CONNECT_FAILED):
                raise BlobError(f"{who.printable} cannot be reached ({result.name}): give a signaling service or an address")
            yield Wait(lambda: False, now_us + BLOB_RETRY_US)
            continue
        may_send = message is not None
        yield Wait(
            lambda: (
                endpoint.has_unread(channel)
                or outgoing.has_news
                or (may_send and endpoint.has_room(who))  # noqa: B023 - looked at before the next round
                or (outgoing.is_offered and port.state(who) not in _LIVE)
            ),
            NEVER if state is ConnectionState.CONNECTED else now_us + BLOB_RETRY_US,
        )


def receive_steps(
    port: BlobPort,
    *,
    channel: int,
    into: Sink,
    identity: Identity | None,
    size_max: int | None,
    progress: Progress | None,
) -> Steps[Blob]:
    """Receive the next blob. Raises BlobError if its sender gives up or it is not what he announced."""
    desk = port.desk(channel)
    limit = size_max if size_max is not None else (BLOB_BYTES_IN_MEMORY_MAX if into is None else None)
    while True:
        desk.pump()
        offer = desk.take_offer(identity)
        if offer is None:
            yield Wait(lambda: port.endpoint.has_unread(channel) or desk.has_offer(identity))
        elif limit is not None and offer.size > limit:
            desk.finish(offer, _REFUSED, f"at most {limit} bytes are taken here, not {offer.size}")
        else:
            break
    sink = _SinkFile(into, offer)
    is_over = discard = False
    try:
        yield Work(sink.find_position)
        incoming = _Incoming(offer, sink)
        with desk.lock:
            desk.incoming.append(incoming)
        try:
            yield from _receive(port, desk, incoming, progress)
        finally:
            with desk.lock:
                desk.incoming.remove(incoming)
        offer = incoming.offer
        if not sink.is_correct(offer.digest):
            discard = True
            desk.finish(offer, _WRONG, "what arrived has another checksum: it changed while it was sent")
            raise BlobError(f"the blob of {offer.identity.printable} has another checksum than announced: it was thrown away")
        data = sink.keep()
        is_over = True
        desk.finish(offer, _CORRECT, "")
        return Blob(offer.identity, offer.name, offer.size, offer.digest.hex(), data)
    finally:
        if not is_over:
            sink.leave(discard=discard)


def _receive(port: BlobPort, desk: _Desk, incoming: _Incoming, progress: Progress | None) -> Steps[None]:
    endpoint, channel, sink = port.endpoint, desk.channel, incoming.sink
    told = -1
    while True:
        desk.pump()
        if incoming.failure is not None:
            desk.finish(incoming.offer, _REFUSED, "it could not be written down")
            raise incoming.failure
        who = incoming.offer.identity
        if port.state(who) in _LIVE:
            while incoming.answers and desk.send(who, incoming.answers[0]) is Result.OK:
                incoming.answers.popleft()
        else:
            # The next offer asks again.
            incoming.answers.clear()
        if progress is not None and sink.position != told:
            told = sink.position
            progress(told, incoming.offer.size)
        if incoming.is_whole:
            return
        if incoming.is_cancelled:
            raise BlobError(f"{who.printable} gave up sending: what came is kept, where it goes to a path")
        blocked = bool(incoming.answers)
        yield Wait(
            lambda: (
                endpoint.has_unread(channel)
                or (incoming.has_news and not blocked)  # noqa: B023 - looked at before the next round
                or (blocked and endpoint.has_room(who))  # noqa: B023
            )
        )


def _encode(kind: int, transfer: bytes, body: bytes = b"") -> bytes:
    return _HEAD.pack(kind, transfer) + body
