"""What an endpoint asks of its driver beside datagrams: streams, names, this machine's addresses.

Made when the first such request comes, so that endpoints without a rendezvous pay nothing for it. All methods expect the driver's
lock to be held. The endpoint's exceptions pass through; the state here is in order when they do.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

from peergram.drivers.driven_endpoint import DrivenEndpoint
from peergram.drivers.interfaces import InterfaceWatch
from peergram.drivers.mailbox import Mailbox
from peergram.drivers.names import NameResolver
from peergram.drivers.sockets import Watched
from peergram.drivers.streams import DriverStream, StreamCounters
from peergram.drivers.tls import pinning_context, trusting_context
from peergram.drivers.workers import Workers
from peergram.io_requests import CloseStream, OpenStream, ResolveName, Transmit, WatchInterfaces
from peergram.timing import NEVER

_STREAMS_WITHOUT_CONTEXT_MAX = 64

SideRequest = OpenStream | CloseStream | ResolveName | WatchInterfaces


class SideIo:
    """`changed` is called when what to wait for has changed, `retire` with what the driver must stop waiting for, then close."""

    def __init__(
        self, endpoint: DrivenEndpoint, mailbox: Mailbox, *, changed: Callable[[], None], retire: Callable[[Watched], None]
    ) -> None:
        self.wake_at_us = NEVER
        """When to call `handle_due` next, or NEVER."""
        self._endpoint = endpoint
        self._mailbox = mailbox
        self._changed = changed
        self._retire = retire
        self._streams: dict[int, DriverStream] = {}
        self._names = NameResolver(endpoint.handle_name_resolved, mailbox)
        self._interfaces: InterfaceWatch | None = None
        self._tls_workers = Workers("peergram tls", threads_max=1, jobs_max=_STREAMS_WITHOUT_CONTEXT_MAX)

    @property
    def entries(self) -> list[Watched]:
        """What to wait for."""
        entries: list[Watched] = list(self._streams.values())
        if self._interfaces is not None and self._interfaces.has_signs:
            entries.append(self._interfaces)
        return entries

    def counters(self) -> dict[int, StreamCounters]:
        """By stream id, for streams that are not over."""
        return {stream_id: stream.counters for stream_id, stream in self._streams.items()}

    # From the endpoint

    def serve(self, request: SideRequest, now_us: int) -> None:
        """Do what the endpoint asks for."""
        if isinstance(request, OpenStream):
            self._open_stream(request, now_us)
        elif isinstance(request, CloseStream):
            self._close_stream(request.stream_id)
        elif isinstance(request, ResolveName):
            self._names.resolve(request.name, now_us)
        else:
            self._watch_interfaces(request.on, now_us)
        self._rearm()
        self._changed()

    def send(self, transmit: Transmit) -> None:
        """Send through a stream; for one that is over, or never was, nothing happens."""
        stream = self._streams.get(transmit.socket_id)
        if stream is None:
            return
        was_blocked = stream.blocked
        stream.send(transmit.packets)
        if stream.failure is not None:
            # The endpoint is told in a turn of its own: it is busy sending.
            self.wake_at_us = 0
            self._changed()
        elif stream.blocked != was_blocked:
            self._changed()

    # From the network and the clock

    def read(self, entry: Watched, now_us: int) -> bool:
        """Take what one system call gets; whether more may wait."""
        if entry is self._interfaces:
            has_more = self._interfaces.handle_sign(now_us)
            self._rearm()
            return has_more
        if not isinstance(entry, DriverStream) or self._streams.get(entry.stream_id) is not entry:
            return False
        was_blocked = entry.blocked
        data = entry.receive()
        self._settle(entry, data, was_blocked, now_us)
        return entry.has_more and entry.failure is None

    def handle_writable(self, entry: Watched, now_us: int) -> None:
        """The kernel takes bytes of this stream, or has news of its connection."""
        if isinstance(entry, DriverStream) and self._streams.get(entry.stream_id) is entry:
            was_blocked = entry.blocked
            entry.handle_writable()
            self._settle(entry, b"", was_blocked, now_us)

    def handle_due(self, now_us: int) -> None:
        """Give up what has taken too long, look at the interfaces if it is time."""
        for stream in list(self._streams.values()):
            if stream.give_up_at_us <= now_us:
                stream.give_up()
            if stream.failure is not None:
                self._settle(stream, b"", False, now_us)
        self._names.handle_due(now_us)
        if self._interfaces is not None:
            self._interfaces.handle_due(now_us)
        self._rearm()

    def close(self) -> None:
        """Send what can still be sent, then give everything back."""
        for stream_id in list(self._streams):
            self._close_stream(stream_id)
        self._stop_watching_interfaces()
        self._names.close()
        self._tls_workers.close()
        self.wake_at_us = NEVER

    def abandon(self) -> None:
        """Give every descriptor back without another word."""
        for entry in self.entries:
            entry.close()
        self._streams.clear()
        self._interfaces = None
        self._names.close()
        self._tls_workers.close()
        self.wake_at_us = NEVER

    def _rearm(self) -> None:
        at_us = min((stream.give_up_at_us for stream in self._streams.values()), default=NEVER)
        if any(stream.failure is not None for stream in self._streams.values()):
            at_us = 0
        if self._interfaces is not None:
            at_us = min(at_us, self._interfaces.due_us)
        self.wake_at_us = min(at_us, self._names.wake_at_us)

    # Streams

    def _open_stream(self, request: OpenStream, now_us: int) -> None:
        stream = self._streams[request.stream_id] = DriverStream(request, now_us)
        if stream.needs_tls:
            self._find_context(stream, pinned=request.tls_fingerprint is not None)
        self._settle(stream, b"", stream.blocked, now_us)

    def _find_context(self, stream: DriverStream, *, pinned: bool) -> None:
        if pinned:
            stream.start_tls(pinning_context())
        elif trusting_context.cache_info().currsize:
            stream.start_tls(trusting_context())
        elif not self._tls_workers.submit(partial(self._make_context, stream)):
            stream.refuse("too many wait for this machine's list of trusted certificates")

    def _make_context(self, stream: DriverStream) -> None:
        """In a worker's thread: reading all trusted certificates takes longer than a frame of a game."""
        try:
            self._mailbox.put(partial(self._handle_context, stream, trusting_context()))
        except (OSError, ValueError) as error:
            self._mailbox.put(partial(self._handle_no_context, stream, f"this machine's trusted certificates: {error}"))

    def _handle_context(self, stream: DriverStream, context: ssl.SSLContext, now_us: int) -> None:
        was_blocked = stream.blocked
        stream.start_tls(context)
        self._settle(stream, b"", was_blocked, now_us)

    def _handle_no_context(self, stream: DriverStream, text: str, now_us: int) -> None:
        stream.refuse(text)
        self._settle(stream, b"", False, now_us)

    def _close_stream(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.end()
            self._retire(stream)

    def _settle(self, stream: DriverStream, data: bytes, was_blocked: bool, now_us: int) -> None:
        """Tell the endpoint what has become of a stream, and the driver what to wait for."""
        if self._streams.get(stream.stream_id) is not stream:
            return
        is_over = stream.failure is not None
        if is_over:
            del self._streams[stream.stream_id]
            self._retire(stream)
        elif stream.blocked != was_blocked:
            self._changed()
        self._rearm()
        if stream.has_opened and not stream.is_announced:
            stream.is_announced = True
            self._endpoint.handle_stream_opened(stream.stream_id, now_us)
        if data:
            self._endpoint.handle_stream_data(stream.stream_id, data, now_us)
        if is_over:
            self._endpoint.handle_stream_closed(stream.stream_id, stream.failure or "", now_us)

    # This machine's addresses

    def _watch_interfaces(self, on: bool, now_us: int) -> None:
        self._stop_watching_interfaces()
        if on:
            self._interfaces = InterfaceWatch(self._endpoint.handle_interfaces, now_us)
            self._interfaces.handle_due(now_us)

    def _stop_watching_interfaces(self) -> None:
        if self._interfaces is not None:
            self._retire(self._interfaces)
            self._interfaces = None
