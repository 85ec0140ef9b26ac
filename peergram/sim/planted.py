"""Deliberate defects, to test the simulator with: each must be found within few seeds.

A `Plant` is a context manager around a run: it gets the way endpoints are made and gives another one. Defects at the seam wrap
the endpoint and spoil one verb (`Spoiled` and its children), so that they work with every endpoint; `patched` is for those
deeper inside, which replace a method of a class of the core while the run lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import FunctionType
from typing import Any

from peergram.address import Address
from peergram.config import Config
from peergram.errors import Result
from peergram.events import ConnectionInfo, ConnectionState, Event, Message, RealTimeStatus, SendFlags, SessionFailed, Unconfirmed
from peergram.identity import Identity
from peergram.io_requests import CloseSocket, IoRequest, Transmit
from peergram.sim.world import EndpointLike, MakeEndpoint
from peergram.timing import Deadline

Plant = Callable[[MakeEndpoint], AbstractContextManager[MakeEndpoint]]


class Spoiled:
    """An endpoint that passes everything on; children spoil one thing, now and then (`every` so many times)."""

    every = 5

    def __init__(self, inner: EndpointLike, config: Config) -> None:
        self.inner = inner
        self.config = config
        self.count = 0

    def is_time(self) -> bool:
        """True once in `every` calls."""
        self.count += 1
        return self.count % self.every == 0

    def listen(self, bind: Address) -> int:
        return self.inner.listen(bind)

    def poll_socket_request(self) -> IoRequest | None:
        return self.inner.poll_socket_request()

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None:
        self.inner.handle_socket_opened(socket_id, local, now_us)

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None:
        self.inner.handle_socket_failed(socket_id, text, now_us)

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        self.inner.handle_datagrams(socket_id, remote, data, segment_bytes, now_us)

    def handle_timeout(self, now_us: int) -> None:
        self.inner.handle_timeout(now_us)

    def poll_transmit(self, now_us: int) -> Transmit | None:
        return self.inner.poll_transmit(now_us)

    def poll_timeout(self) -> Deadline | None:
        return self.inner.poll_timeout()

    def poll_event(self) -> Event | None:
        return self.inner.poll_event()

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        return self.inner.send_message(to, data, flags, channel, now_us)

    def receive_messages(self, channel: int, max_messages: int, now_us: int) -> list[Message]:
        return self.inner.receive_messages(channel, max_messages, now_us)

    def accept_session(self, identity: Identity, now_us: int) -> bool:
        return self.inner.accept_session(identity, now_us)

    def close_session(self, identity: Identity, now_us: int) -> bool:
        return self.inner.close_session(identity, now_us)

    def close_channel(self, identity: Identity, channel: int, now_us: int) -> bool:
        return self.inner.close_channel(identity, channel, now_us)

    def connection_info(self, identity: Identity, now_us: int) -> ConnectionInfo | None:
        return self.inner.connection_info(identity, now_us)

    def real_time_status(self, identity: Identity, now_us: int) -> RealTimeStatus | None:
        return self.inner.real_time_status(identity, now_us)

    def close(self, now_us: int) -> None:
        self.inner.close(now_us)

    @property
    def unread_messages(self) -> int:
        return self.inner.unread_messages


class _SpoiledMessages(Spoiled):
    """Spoils what is received."""

    def receive_messages(self, channel: int, max_messages: int, now_us: int) -> list[Message]:
        messages = self.inner.receive_messages(channel, max_messages, now_us)
        return self.spoil(messages)[:max_messages] if messages else messages

    def spoil(self, messages: list[Message]) -> list[Message]:
        raise NotImplementedError


class DeliverTwice(_SpoiledMessages):
    def spoil(self, messages: list[Message]) -> list[Message]:
        return [messages[0], *messages] if self.is_time() else messages


class SwapTwo(_SpoiledMessages):
    def spoil(self, messages: list[Message]) -> list[Message]:
        return messages[::-1]


class LoseOne(_SpoiledMessages):
    def spoil(self, messages: list[Message]) -> list[Message]:
        return messages[1:] if self.is_time() else messages


class InventOne(_SpoiledMessages):
    def spoil(self, messages: list[Message]) -> list[Message]:
        return [*messages, _like(messages[0], b"\xff\xff\xff\x7f, made up")] if self.is_time() else messages


class Truncate(_SpoiledMessages):
    def spoil(self, messages: list[Message]) -> list[Message]:
        return [_like(message, message.payload[:-1]) for message in messages] if self.is_time() else messages


class FlipByte(_SpoiledMessages):
    def spoil(self, messages: list[Message]) -> list[Message]:
        last = messages[-1]
        flipped = last.payload[:-1] + bytes((last.payload[-1] ^ 1,)) if last.payload else b""
        return [*messages[:-1], _like(last, flipped)] if self.is_time() else messages


class WrongSender(Spoiled):
    """Takes the peer that asked last for the sender."""

    last: Identity | None = None

    def poll_event(self) -> Event | None:
        event = self.inner.poll_event()
        self.last = event.identity if event is not None else self.last
        return event

    def receive_messages(self, channel: int, max_messages: int, now_us: int) -> list[Message]:
        messages = self.inner.receive_messages(channel, max_messages, now_us)
        return [_like(message, message.payload, self.last or message.identity) for message in messages]


class WrongChannel(Spoiled):
    """Ignores the lowest bit of a channel."""

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        return self.inner.send_message(to, data, flags, channel & ~1, now_us)


class AcceptAll(Spoiled):
    """Lets strangers in without asking, though it asks."""

    now_us = 0

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        self.now_us = now_us
        self.inner.handle_datagrams(socket_id, remote, data, segment_bytes, now_us)

    def poll_event(self) -> Event | None:
        event = self.inner.poll_event()
        if event is not None and not isinstance(event, SessionFailed):
            self.inner.accept_session(event.identity, self.now_us)
        return event


class ForgetTimer(Spoiled):
    """The timer is set once and never again."""

    every = 20

    def poll_timeout(self) -> Deadline | None:
        deadline = self.inner.poll_timeout()
        self.count += deadline is not None
        return deadline if self.count < self.every else None


class TimerInPast(Spoiled):
    """Always due."""

    now_us = 0

    def handle_timeout(self, now_us: int) -> None:
        self.now_us = now_us
        self.inner.handle_timeout(now_us)

    def poll_timeout(self) -> Deadline | None:
        return Deadline(self.now_us, "planted") if self.inner.poll_timeout() else None


class BusyTimer(Spoiled):
    """Wakes up every 20 microseconds while there is a session."""

    now_us = 0

    def handle_timeout(self, now_us: int) -> None:
        self.now_us = now_us
        self.inner.handle_timeout(now_us)

    def poll_timeout(self) -> Deadline | None:
        deadline = self.inner.poll_timeout()
        return Deadline(min(deadline.at_us, self.now_us + 20), "planted") if deadline and self.now_us else deadline


class RepeatFailure(Spoiled):
    """Reports a failure again."""

    again: Event | None = None

    def poll_event(self) -> Event | None:
        event, self.again = self.again, None
        if event is None:
            event = self.inner.poll_event()
            self.again = event if isinstance(event, SessionFailed) else None
        return event


class SwallowFailure(Spoiled):
    """Never reports a failure."""

    def poll_event(self) -> Event | None:
        event = self.inner.poll_event()
        while isinstance(event, SessionFailed):
            event = self.inner.poll_event()
        return event


class CountTooFew(Spoiled):
    """Forgets one message in each report."""

    def poll_event(self) -> Event | None:
        event = self.inner.poll_event()
        if isinstance(event, SessionFailed) and event.unconfirmed.messages:
            return replace(event, unconfirmed=Unconfirmed(event.unconfirmed.messages - 1, event.unconfirmed.bytes))
        return event


class CountTooMany(Spoiled):
    """Reports everything a thousandfold."""

    def poll_event(self) -> Event | None:
        event = self.inner.poll_event()
        if isinstance(event, SessionFailed):
            return replace(event, unconfirmed=Unconfirmed(event.unconfirmed.messages * 1_000 + 1_000, event.unconfirmed.bytes))
        return event


class CountOneTooMany(Spoiled):
    """Counts a message that was confirmed."""

    def poll_event(self) -> Event | None:
        event = self.inner.poll_event()
        if isinstance(event, SessionFailed):
            return replace(event, unconfirmed=Unconfirmed(event.unconfirmed.messages + 1, event.unconfirmed.bytes))
        return event


class CountTooFewBytes(Spoiled):
    """Counts only what is in flight of a message."""

    def poll_event(self) -> Event | None:
        event = self.inner.poll_event()
        if isinstance(event, SessionFailed) and event.unconfirmed.bytes:
            return replace(event, unconfirmed=Unconfirmed(event.unconfirmed.messages, event.unconfirmed.bytes - 1))
        return event


class SilentAfterClosing(Spoiled):
    """Never says what a closed session still lost."""

    def poll_event(self) -> Event | None:
        event = self.inner.poll_event()
        while isinstance(event, SessionFailed) and event.state == ConnectionState.NONE:
            event = self.inner.poll_event()
        return event


class TakeAndDrop(Spoiled):
    """Says OK to what did not fit, or was not wanted."""

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        self.inner.send_message(to, data, flags, channel, now_us)
        return Result.OK


class _SpoiledPackets(Spoiled):
    """Spoils what is sent."""

    def poll_transmit(self, now_us: int) -> Transmit | None:
        transmit = self.inner.poll_transmit(now_us)
        if transmit is None or not self.is_time():
            return transmit
        return Transmit(transmit.socket_id, transmit.remote, self.spoil(list(transmit.packets)))

    def spoil(self, packets: list[bytes]) -> list[bytes]:
        raise NotImplementedError


class RepeatNonce(_SpoiledPackets):
    def spoil(self, packets: list[bytes]) -> list[bytes]:
        return [*packets[:43], packets[0][:-1] + bytes((packets[0][-1] ^ 1,))]


class Oversize(_SpoiledPackets):
    def spoil(self, packets: list[bytes]) -> list[bytes]:
        return [*packets[:-1], packets[-1].ljust(1_301, b"\1")]


class ReservedBits(_SpoiledPackets):
    def spoil(self, packets: list[bytes]) -> list[bytes]:
        return [bytes((packets[0][0] | 0x40,)) + packets[0][1:], *packets[1:]]


class LeakPlainText(Spoiled):
    """Appends what was sent last to the next packet."""

    last = b""

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        self.last = data[:100]
        return self.inner.send_message(to, data, flags, channel, now_us)

    def poll_transmit(self, now_us: int) -> Transmit | None:
        transmit = self.inner.poll_transmit(now_us)
        if transmit is None or len(transmit.packets[0]) > 1_000:
            return transmit
        return Transmit(transmit.socket_id, transmit.remote, [transmit.packets[0] + self.last, *transmit.packets[1:]])


class AnswerStrangers(Spoiled):
    """Answers noise at length."""

    answer: Transmit | None = None

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        if len(data) < 200 and data[:1] and data[0] >= 0x80:
            self.answer = Transmit(socket_id, remote, [b"\x25" + b"\x15" + bytes(4)] * 44)
        self.inner.handle_datagrams(socket_id, remote, data, segment_bytes, now_us)

    def poll_transmit(self, now_us: int) -> Transmit | None:
        answer, self.answer = self.answer, None
        return answer or self.inner.poll_transmit(now_us)


class RaiseOnNoise(Spoiled):
    """Has no check for a short packet."""

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        if len(data) < 7:
            raise IndexError("index out of range")
        self.inner.handle_datagrams(socket_id, remote, data, segment_bytes, now_us)


class Chatter(Spoiled):
    """Sends the last small packet again and again."""

    again: Transmit | None = None
    due_us = 0

    def poll_transmit(self, now_us: int) -> Transmit | None:
        transmit = self.inner.poll_transmit(now_us)
        if transmit is not None:
            self.again = Transmit(transmit.socket_id, transmit.remote, transmit.packets[:1])
            self.due_us = now_us + 100_000
        elif self.again is not None and now_us >= self.due_us:
            self.due_us = now_us + 100_000
            return self.again
        return transmit

    def poll_socket_request(self) -> IoRequest | None:
        request = self.inner.poll_socket_request()
        if isinstance(request, CloseSocket) and self.again is not None and self.again.socket_id == request.socket_id:
            self.again = None
        return request

    def poll_timeout(self) -> Deadline | None:
        deadline = self.inner.poll_timeout()
        if self.again is None:
            return deadline
        return min(deadline or Deadline(self.due_us, "chatter"), Deadline(self.due_us, "chatter"))


class NeverGone(Spoiled):
    """Shows sessions long after their end."""

    last: dict[Identity, ConnectionInfo]

    def connection_info(self, identity: Identity, now_us: int) -> ConnectionInfo | None:
        self.__dict__.setdefault("last", {})
        info = self.inner.connection_info(identity, now_us)
        if info is not None and info.state == ConnectionState.CONNECTED:
            self.last[identity] = info
        return info or self.last.get(identity)


class KeepEverything(Spoiled):
    """Remembers every packet for ever."""

    def __init__(self, inner: EndpointLike, config: Config) -> None:
        super().__init__(inner, config)
        self.packets: list[bytes] = []

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        self.packets.append(bytes(bytearray(data) * 8))
        self.inner.handle_datagrams(socket_id, remote, data, segment_bytes, now_us)


class ObeyNoise(Spoiled):
    """Ends a session when somebody sends a short packet that begins like a close."""

    known: Identity | None = None

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        self.known = to
        return self.inner.send_message(to, data, flags, channel, now_us)

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        if data[:1] == b"\x24" and self.known is not None:
            self.inner.close_session(self.known, now_us)
        self.inner.handle_datagrams(socket_id, remote, data, segment_bytes, now_us)


class DeafAfterWhile(Spoiled):
    """Stops hearing after some hundred batches."""

    every = 150

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        self.count += 1
        if self.count < self.every:
            self.inner.handle_datagrams(socket_id, remote, data, segment_bytes, now_us)


class OtherEveryRun(Spoiled):
    """Draws on something outside the seed: how many endpoints this process ever made."""

    made = 0

    def __init__(self, inner: EndpointLike, config: Config) -> None:
        super().__init__(inner, config)
        type(self).made += 1
        self.drop = 3 + type(self).made

    def handle_timeout(self, now_us: int) -> None:
        self.count += 1
        if self.count == self.drop:
            now_us -= 1
        self.inner.handle_timeout(now_us)

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        self.count += 1
        if self.count % 7 == self.drop % 7:
            flags |= SendFlags.NO_NAGLE
        return self.inner.send_message(to, data, flags, channel + 1_000 * (self.count == self.drop), now_us)


def _like(message: Message, payload: bytes, identity: Identity | None = None) -> Message:
    return Message(
        identity or message.identity,
        message.channel,
        payload,
        message.message_number,
        message.reliable,
        message.received_at_us,
    )


def at_the_seam(spoil: Callable[[EndpointLike, Config], EndpointLike]) -> Plant:
    """Every endpoint is wrapped by `spoil`."""

    @contextmanager
    def plant(make: MakeEndpoint) -> Iterator[MakeEndpoint]:
        def spoiled(identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None) -> EndpointLike:
            return spoil(make(identity, config, entropy, key_seed), config)

        yield spoiled

    return plant


def with_config(**values: Any) -> Plant:
    """Every endpoint is made with limits other than those the checkers know."""

    @contextmanager
    def plant(make: MakeEndpoint) -> Iterator[MakeEndpoint]:
        def other(identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None) -> EndpointLike:
            return make(identity, replace(config, **values), entropy, key_seed)

        yield other

    return plant


def patched(owner: type, method: str, make_replacement: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Plant:
    """While the run lasts, `owner.method` is what `make_replacement` makes of the original."""

    @contextmanager
    def plant(make: MakeEndpoint) -> Iterator[MakeEndpoint]:
        original = owner.__dict__[method]
        if not isinstance(original, FunctionType):
            raise TypeError(f"{owner.__name__}.{method} is compiled: its callers would not notice what takes its place")
        setattr(owner, method, make_replacement(original))
        try:
            yield make
        finally:
            setattr(owner, method, original)

    return plant


PLANTED: dict[str, Plant] = {
    "deliver twice": at_the_seam(DeliverTwice),
    "swap two": at_the_seam(SwapTwo),
    "lose one": at_the_seam(LoseOne),
    "invent one": at_the_seam(InventOne),
    "truncate": at_the_seam(Truncate),
    "flip a byte": at_the_seam(FlipByte),
    "wrong sender": at_the_seam(WrongSender),
    "wrong channel": at_the_seam(WrongChannel),
    "accept all": at_the_seam(AcceptAll),
    "forget the timer": at_the_seam(ForgetTimer),
    "timer in the past": at_the_seam(TimerInPast),
    "busy timer": at_the_seam(BusyTimer),
    "repeat a failure": at_the_seam(RepeatFailure),
    "swallow a failure": at_the_seam(SwallowFailure),
    "count too few": at_the_seam(CountTooFew),
    "count too many": at_the_seam(CountTooMany),
    "count one too many": at_the_seam(CountOneTooMany),
    "count too few bytes": at_the_seam(CountTooFewBytes),
    "silent after closing": at_the_seam(SilentAfterClosing),
    "take and drop": at_the_seam(TakeAndDrop),
    "repeat a nonce": at_the_seam(RepeatNonce),
    "oversize packet": at_the_seam(Oversize),
    "reserved bits": at_the_seam(ReservedBits),
    "leak plain text": at_the_seam(LeakPlainText),
    "answer strangers": at_the_seam(AnswerStrangers),
    "raise on noise": at_the_seam(RaiseOnNoise),
    "chatter": at_the_seam(Chatter),
    "sessions never go": at_the_seam(NeverGone),
    "keep everything": at_the_seam(KeepEverything),
    "obey noise": at_the_seam(ObeyNoise),
    "deaf after a while": at_the_seam(DeafAfterWhile),
    "no receive limit": with_config(recv_buffer_messages=100_000, recv_buffer_bytes=1 << 28),
    "no send limit": with_config(send_buffer_bytes=1 << 28),
    "no rate limit": with_config(rate="auto"),
}
"""Found by `run_seed`."""
UNSTEADY: dict[str, Plant] = {"other every run": at_the_seam(OtherEveryRun)}
"""Found by `check_replay`."""
