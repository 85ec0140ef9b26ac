"""The reference as a peer by identity: its ISteamNetworkingMessages over its native ICE, signals by the line protocol.

    python -m tests.interop.gns_party OPTIONS

The library asks for a signaling object per connection (Callback_CreateConnectionSignaling, or OnConnectRequest for incoming
ones) and calls it from any of its threads, holding its own locks: what happens here then is only to queue a line.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from ctypes import POINTER, byref
from typing import Any

from .child import Answer
from .gns import (
    CONNECT_REQUEST_CALLBACK,
    CREATE_SIGNALING_CALLBACK,
    REJECTION_CALLBACK,
    RELEASE_SIGNALING_CALLBACK,
    SEND_SIGNAL_CALLBACK,
    SESSION_FAILED_CALLBACK,
    SESSION_REQUEST_CALLBACK,
    GnsError,
    RawIdentity,
    RawInfo,
    RawMessage,
    RawStatus,
    Reference,
    Setting,
    Settings,
    identity_text,
    info_of,
    parse_identity,
)
from .line_signals import LineClient, SignalFaults
from .party import Arrived, Party, PartyOptions, Standing, serve

_BATCH_MESSAGES = 256


class GnsParty:
    """One initialised reference library with its messages interface; a process can hold only one."""

    def __init__(self, options: PartyOptions) -> None:
        self._reference = Reference(Settings(identity=options.identity, log_level=options.log_level))
        self._library = self._reference.library
        self._line = LineClient(
            _host_and_port(options.signaling),
            options.identity,
            SignalFaults(
                options.signal_loss_percent, options.signal_duplicate_percent, options.signal_delay_ms, options.signal_seed
            ),
        )
        self._events: list[Answer] = []
        self._identities: dict[str, RawIdentity] = {}
        self._batch = (POINTER(RawMessage) * _BATCH_MESSAGES)()
        self._contexts = itertools.count(1)
        self._peer_of_context: dict[int, str] = {}
        # All of them stay referenced for as long as the library may call them.
        self._send_signal = SEND_SIGNAL_CALLBACK(self._queue_signal)
        self._release_signaling = RELEASE_SIGNALING_CALLBACK(self._forget_context)
        self._create_signaling = CREATE_SIGNALING_CALLBACK(lambda _interface, peer, _local, _remote: self._signaling_to(peer))
        self._connect_request = CONNECT_REQUEST_CALLBACK(lambda _context, _connection, peer, _port: self._signaling_to(peer))
        self._rejection = REJECTION_CALLBACK(self._queue_rejection)
        self._session_request = SESSION_REQUEST_CALLBACK(self._note_request)
        self._session_failed = SESSION_FAILED_CALLBACK(self._note_failure)
        self._configure(options)
        self._library.find_messages()

    def _configure(self, options: PartyOptions) -> None:
        reference = self._reference
        reference.set_callback(Setting.CREATE_SIGNALING, self._create_signaling)
        reference.set_callback(Setting.ON_SESSION_REQUEST, self._session_request)
        reference.set_callback(Setting.ON_SESSION_FAILED, self._session_failed)
        relays = [server for server in options.turn if server.transport == "udp"]
        reference.set_config(Setting.P2P_STUN_SERVERS, ",".join(options.stun))
        reference.set_config(Setting.P2P_TURN_SERVERS, ",".join(f"{server.host}:{server.port}" for server in relays))
        reference.set_config(Setting.P2P_TURN_USERS, ",".join(server.user for server in relays))
        reference.set_config(Setting.P2P_TURN_PASSWORDS, ",".join(server.password for server in relays))
        for name, value in options.settings.items():
            self.set_option(name, value)

    # --- what a party does ---

    def step(self) -> list[Answer]:
        for signal in self._line.step():
            self._library.sockets("ReceivedP2PCustomSignal2", signal, len(signal), None, self._connect_request, self._rejection)
        self._reference.run_callbacks()
        while self._reference.log:
            print(self._reference.log.popleft(), file=sys.stderr, flush=True)
        events, self._events = self._events, []
        return events

    def send(self, to: str, data: bytes, flags: int, channel: int) -> int:
        result: int = self._library.messages("SendMessageToUser", self._identity(to), data, len(data), flags, channel)
        return result

    def receive(self, channel: int, messages_max: int) -> list[Arrived]:
        wanted = min(messages_max, _BATCH_MESSAGES)
        count = self._library.messages("ReceiveMessagesOnChannel", channel, self._batch, wanted)
        messages = []
        for pointer in self._batch[:count]:
            message = pointer.contents
            data = ctypes.string_at(message.data, message.size_bytes) if message.size_bytes else b""
            messages.append(Arrived(identity_text(self._library, message.identity), message.flags, data))
            self._library.call("SteamAPI_SteamNetworkingMessage_t_Release", pointer)
        return messages

    def accept(self, identity: str) -> bool:
        return bool(self._library.messages("AcceptSessionWithUser", self._identity(identity)))

    def close_session(self, identity: str) -> bool:
        return bool(self._library.messages("CloseSessionWithUser", self._identity(identity)))

    def close_channel(self, identity: str, channel: int) -> bool:
        return bool(self._library.messages("CloseChannelWithUser", self._identity(identity), channel))

    def standing(self, identity: str) -> Standing | None:
        raw, status = RawInfo(), RawStatus()
        if not self._library.messages("GetSessionConnectionInfo", self._identity(identity), byref(raw), byref(status)):
            return None
        info = info_of(self._library, raw)
        return Standing(
            state=int(info.state),
            end_reason=info.end_reason,
            end_debug=info.end_debug,
            flags=info.flags,
            address=info.address,
            description=info.description,
            ping_ms=status.ping_ms if status.ping_ms >= 0 else None,
            pending_reliable=status.pending_reliable,
            pending_unreliable=status.pending_unreliable,
            unacked_reliable=status.unacked_reliable,
        )

    def set_option(self, name: str, value: float | str) -> None:
        self._reference.set_config(int(name), value)

    def close(self) -> None:
        self._line.close()
        self._reference.shutdown()

    # --- what the library calls ---

    def _signaling_to(self, peer: Any) -> int:
        context = next(self._contexts)
        self._peer_of_context[context] = identity_text(self._library, peer.contents)
        return self._library.create_signaling(context, self._send_signal, self._release_signaling)

    def _queue_signal(self, context: int, _connection: int, _info: int, signal: int, size_bytes: int) -> bool:
        self._line.send(self._peer_of_context[context], ctypes.string_at(signal, size_bytes))
        return True

    def _forget_context(self, context: int) -> None:
        self._peer_of_context.pop(context, None)

    def _queue_rejection(self, _context: None, peer: Any, signal: int, size_bytes: int) -> None:
        self._line.send(identity_text(self._library, peer.contents), ctypes.string_at(signal, size_bytes))

    def _note_request(self, peer: Any) -> None:
        self._events.append({"kind": "request", "identity": identity_text(self._library, peer.contents)})

    def _note_failure(self, failure: Any) -> None:
        info = info_of(self._library, failure.contents.info)
        self._events.append(
            {
                "kind": "failed",
                "identity": info.identity,
                "state": int(info.state),
                "end_reason": info.end_reason,
                "end_debug": info.end_debug,
            }
        )

    def _identity(self, text: str) -> Any:
        if text not in self._identities:
            self._identities[text] = parse_identity(self._library, text)
        return byref(self._identities[text])


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _make(options: PartyOptions) -> Party:
    return GnsParty(options)


if __name__ == "__main__":
    serve(_make, (GnsError, TypeError, ValueError))
