"""GodotSteam's Networking Messages, without Steam: the same functions, keys, signals, constants and registry of identities.

    steam = Steam(identity="str:alice", trust="open")
    steam.network_messages_session_request.connect(lambda identity: steam.acceptSessionWithUser(identity))
    steam.sendMessageToUser("str:bob", b"hello", Steam.NETWORKING_SEND_RELIABLE, 0)
    steam.run_callbacks()

Where GodotSteam's page and its code disagree, both spellings are there. A peer is named by an entry of the registry, by the text
of an identity (`str:bob`), by an integer Steam id, or by an `Identity`. Everything else is `peergram.Messages`, whose options
`Steam` takes as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from peergram import SessionInfo
from peergram.adapters.godot_constants import constant
from peergram.adapters.godot_identities import IdentityRegistry
from peergram.adapters.godot_relays import RelayFunctions, status_arguments
from peergram.config import GODOT_NAMES_MAX
from peergram.errors import UsageError
from peergram.events import (
    ConnectionInfo,
    ConnectionState,
    Message,
    RealTimeStatus,
    RelayNetworkChanged,
    SessionFailed,
    SessionRequested,
)
from peergram.identity import Identity
from peergram.messages import Messages

_log = logging.getLogger(__name__)

_UNKNOWN_PING: Final = -1
_UNKNOWN_QUALITY: Final = -1.0
_UNKNOWN_QUEUE_TIME: Final = (1 << 63) - 1
_UNKNOWN_SEND_RATE: Final = 262_144
_UNKNOWN_USER_DATA: Final = -1
_INVALID_PARAM: Final = 8


class Signal:
    """What a script connects to. Callables are called in the order of their connection, with the arguments of `emit`."""

    def __init__(self) -> None:
        self._connected: list[Callable[..., object]] = []

    def connect(self, callable: Callable[..., object]) -> None:  # noqa: A002 (Godot's name)
        """Call it from now on; once, however often it is connected."""
        if callable not in self._connected:
            self._connected.append(callable)

    def disconnect(self, callable: Callable[..., object]) -> None:  # noqa: A002
        """Call it no longer; harmless if it is not connected."""
        if callable in self._connected:
            self._connected.remove(callable)

    def is_connected(self, callable: Callable[..., object]) -> bool:  # noqa: A002
        """Whether it is called."""
        return callable in self._connected

    def has_connections(self) -> bool:
        """Whether anybody is."""
        return bool(self._connected)

    def emit(self, *arguments: object) -> None:
        """Call all of them."""
        for each in list(self._connected):
            each(*arguments)


class _Constants(type):
    """The constants and enums as attributes of the class, misspelt ones with a warning."""

    def __getattr__(cls, name: str) -> Any:
        return constant(name)


class Steam(IdentityRegistry, RelayFunctions, metaclass=_Constants):
    """One identity on the network, as a GodotSteam script sees it. A context manager closes it."""

    def __init__(self, identity: str | Identity | None = None, **options: Any) -> None:
        """`options` are those of `peergram.Messages`; raises as it does."""
        super().__init__()
        self.network_messages_session_request = Signal()
        """Emitted by `run_callbacks` with the identity, as text, of a stranger who wants to talk."""
        self.network_messages_session_failed = Signal()
        """Emitted by `run_callbacks` with (reason, identity as text, connection_state, debug_message)."""
        self._complained_of: set[str] = set()
        self.relay_network_status = Signal()
        """Emitted by `run_callbacks` with (available, ping_measurement, available_config, available_relay, debug_message) when
        the relay network stands differently."""
        self._messages = Messages(identity, **options)

    def __getattr__(self, name: str) -> Any:
        return constant(name)

    def __enter__(self) -> Steam:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def messages(self) -> Messages:
        """What does the work: for waiting, `fileno`, addresses and all else that GodotSteam has no name for."""
        return self._messages

    def run_callbacks(self) -> None:
        """Emit the signals for what happened; call it once a frame. What a connected callable raises comes out here.

        What nobody is connected for is kept until somebody is.
        """
        requested, failed = self.network_messages_session_request, self.network_messages_session_failed
        self._messages.on_session_request = self._emit_request if requested.has_connections() else None
        self._messages.on_session_failed = self._emit_failed if failed.has_connections() else None
        hears = self.relay_network_status.has_connections()
        if hears != (self._messages.on_relay_network_status is not None):
            self._messages.on_relay_network_status = self._emit_relay_status if hears else None
        self._messages.run_callbacks()

    def close(self) -> None:
        """End all sessions. Harmless when repeated."""
        self._messages.close()

    # --- the six functions ---

    def sendMessageToUser(self, identity_reference: str | int | Identity, data: bytes, flags: int, channel: int) -> int:
        """Send one message; the result is `Messages.send_message_to_user`'s as a number, 8 for somebody who is nobody."""
        identity = self._resolve(identity_reference)
        if identity is None:
            return _INVALID_PARAM
        flags, channel = _whole("flags", flags), _whole("channel", channel)
        return int(self._messages.send_message_to_user(identity, data, flags, channel))

    def receiveMessagesOnChannel(self, channel: int, max_messages: int) -> list[dict[str, Any]]:
        """The oldest unread messages of a channel; none for max_messages below 1."""
        channel, most = _whole("channel", channel), _whole("max_messages", max_messages)
        if most <= 0:
            return []
        return [_message_dictionary(message) for message in self._messages.receive_messages_on_channel(channel, most)]

    def acceptSessionWithUser(self, identity_reference: str | int | Identity) -> bool:
        """Let a stranger in; False if there is none."""
        identity = self._resolve(identity_reference)
        return identity is not None and self._messages.accept_session_with_user(identity)

    def closeSessionWithUser(self, identity_reference: str | int | Identity) -> bool:
        """End the session; False if there is none."""
        identity = self._resolve(identity_reference)
        return identity is not None and self._messages.close_session_with_user(identity)

    def closeChannelWithUser(self, identity_reference: str | int | Identity, channel: int) -> bool:
        """Close one channel; the last one closes the session. False if it is not open."""
        identity = self._resolve(identity_reference)
        channel = _whole("channel", channel)
        return identity is not None and self._messages.close_channel_with_user(identity, channel)

    def getSessionConnectionInfo(
        self, identity_reference: str | int | Identity, get_connection: bool, get_status: bool
    ) -> dict[str, Any]:
        """State of the session, and on request what is known of its connection and how that is doing."""
        identity = self._resolve(identity_reference)
        info = (
            SessionInfo(ConnectionState.NONE)
            if identity is None
            else self._messages.get_session_connection_info(identity, get_connection, get_status)
        )
        state = int(info.state)
        found: dict[str, Any] = {"connection_state": state, "state": state}
        if get_connection:
            found |= _connection_dictionary(info.connection)
            if info.connection is not None:
                number_of = self._messages.relay_network.number_of
                found["remote_pop"] = number_of(info.connection.remote_pop)
                found["pop_relay"] = number_of(info.connection.pop_relay)
        if get_status:
            found |= _status_dictionary(info.status)
        return found

    def _resolve(self, reference: str | int | Identity) -> Identity | None:
        """Whom a script means; None if that is nobody: an empty entry, a name without an entry, text that is no identity, a
        number that is no Steam id.

        Raises UsageError for what is no form of a name at all.
        """
        if isinstance(reference, Identity):
            return reference
        if isinstance(reference, bool) or not isinstance(reference, str | int):
            raise UsageError(
                f"a peer is the name of an entry, an identity as text, a Steam id or an Identity, not {type(reference).__name__}"
            )
        if isinstance(reference, int):
            return _person(reference)
        # Unlike elsewhere, `alice` is not str:alice: a mistyped name of an entry must not open a session with a stranger.
        if reference in self or ":" not in reference:
            return self.named(reference)
        try:
            return Identity.parse(reference)
        except UsageError as error:
            if reference not in self._complained_of and len(self._complained_of) < GODOT_NAMES_MAX:
                # Once: a script may try in every frame.
                self._complained_of.add(reference)
                _log.warning("%r is nobody: %s", reference, error)
            return None

    def _emit_request(self, request: SessionRequested) -> None:
        self.network_messages_session_request.emit(request.identity.text)

    def _emit_relay_status(self, changed: RelayNetworkChanged) -> None:
        self.relay_network_status.emit(*status_arguments(changed.status))

    def _emit_failed(self, failed: SessionFailed) -> None:
        self.network_messages_session_failed.emit(int(failed.reason), failed.identity.text, int(failed.state), failed.debug)


def _whole(what: str, value: object) -> int:
    if not isinstance(value, int):
        raise UsageError(f"{what}: give a whole number, not {value!r}")
    return value


def _person(steam_id: int) -> Identity | None:
    try:
        return Identity.steam_id(steam_id)
    except UsageError:
        return None


def _message_dictionary(message: Message) -> dict[str, Any]:
    return {
        "payload": message.payload,
        "size": message.size,
        "connection": 0,
        "identity": message.identity.text,
        "receiver_user_data": _UNKNOWN_USER_DATA,
        "time_received": message.received_at_us,
        "message_number": message.message_number,
        "channel": message.channel,
        "flags": int(message.flags),
        "sender_user_data": _UNKNOWN_USER_DATA,
    }


def _connection_dictionary(connection: ConnectionInfo | None) -> dict[str, Any]:
    return {
        "identity": connection.identity.text if connection is not None and connection.identity is not None else "invalid",
        "user_data": _UNKNOWN_USER_DATA,
        "listen_socket": 0,
        "remote_address": connection.address if connection is not None else "",
        "remote_pop": 0,
        "pop_relay": 0,
        "info_flags": int(connection.flags) if connection is not None else 0,
        "connection_state": int(connection.state if connection is not None else ConnectionState.NONE),
        "end_reason": int(connection.end_reason) if connection is not None else 0,
        "end_debug": connection.end_debug if connection is not None else "",
        "debug_description": connection.description if connection is not None else "",
    }


def _status_dictionary(status: RealTimeStatus | None) -> dict[str, Any]:
    if status is None:
        rates = dict.fromkeys(
            ("packets_out_per_second", "bytes_out_per_second", "packets_in_per_second", "bytes_in_per_second"), 0.0
        )
        waiting = dict.fromkeys(
            ("pending_unreliable", "pending_reliable", "send_unacknowledged_reliable", "sent_unacknowledged_reliable"), 0
        )
        return {
            "state": 0,
            "ping": _UNKNOWN_PING,
            "local_quality": _UNKNOWN_QUALITY,
            "remote_quality": _UNKNOWN_QUALITY,
            **rates,
            "send_rate": _UNKNOWN_SEND_RATE,
            **waiting,
            "queue_time": _UNKNOWN_QUEUE_TIME,
        }
    unacknowledged = status.sent_unacked_reliable_bytes
    return {
        "state": int(status.state),
        "ping": _UNKNOWN_PING if status.ping_ms is None else status.ping_ms,
        "local_quality": _UNKNOWN_QUALITY if status.quality_local is None else status.quality_local,
        "remote_quality": _UNKNOWN_QUALITY if status.quality_remote is None else status.quality_remote,
        "packets_out_per_second": status.out_packets_per_s,
        "bytes_out_per_second": status.out_bytes_per_s,
        "packets_in_per_second": status.in_packets_per_s,
        "bytes_in_per_second": status.in_bytes_per_s,
        "send_rate": status.send_rate_bytes_per_s or _UNKNOWN_SEND_RATE,
        "pending_unreliable": status.pending_unreliable_bytes,
        "pending_reliable": status.pending_reliable_bytes,
        "send_unacknowledged_reliable": unacknowledged,
        "sent_unacknowledged_reliable": unacknowledged,
        "queue_time": _UNKNOWN_QUEUE_TIME if status.queue_time_us is None else status.queue_time_us,
    }
