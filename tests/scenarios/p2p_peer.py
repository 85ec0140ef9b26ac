"""Ours as a peer by identity, with the commands of `tests.interop.party`.

python -m tests.scenarios.p2p_peer OPTIONS
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from peergram import Config, Messages, SessionFailed, UsageError
from peergram.events import SessionRequested
from tests.interop.child import Answer
from tests.interop.party import Arrived, Party, PartyOptions, Standing, TurnServer, serve


def make_messages(options: PartyOptions) -> Messages:
    """The one place that knows how a `Messages` is told of signaling, STUN and TURN servers, and of settings by name.

    `signaling` is `host:port` of a server of the line protocol, without a password; TURN servers may be UDP, TCP or TLS, whose
    certificate is self-made and known by its fingerprint.
    """
    settings: dict[str, Any] = dict(options.settings)
    return Messages(
        options.identity,
        signaling=options.signaling if "://" in options.signaling else f"line://{options.signaling}",
        stun=[f"stun:{server}" for server in options.stun],
        turn=[_turn_url(server) for server in options.turn],
        trust="open",
        relay_map=options.relay_map or None,
        relay_tickets=_relay_tickets(options.relay_tickets),
        hide_ip=options.hide_ip,
        config=Config(**settings),
    )


def _relay_tickets(text: str) -> str | tuple[str, str] | None:
    user, colon, password = text.partition(":")
    return (user, password) if colon else text or None


def _turn_url(server: TurnServer) -> str:
    place = f"{quote(server.user)}:{quote(server.password)}@{server.host}:{server.port}"
    if server.transport == "tls":
        return f"turns:{place}?fingerprint={server.fingerprint}"
    return f"turn:{place}?transport={server.transport}"


class OurParty:
    """One `Messages`."""

    def __init__(self, options: PartyOptions) -> None:
        self._events: list[Answer] = []
        self._net = make_messages(options)
        self._net.on_session_request = self._note_request
        self._net.on_session_failed = self._note_failure

    def step(self) -> list[Answer]:
        self._net.run_callbacks()
        events, self._events = self._events, []
        return events

    def send(self, to: str, data: bytes, flags: int, channel: int) -> int:
        return int(self._net.send_message_to_user(to, data, flags, channel))

    def receive(self, channel: int, messages_max: int) -> list[Arrived]:
        messages = self._net.receive_messages_on_channel(channel, messages_max)
        return [Arrived(str(message.identity), int(message.flags), message.payload) for message in messages]

    def accept(self, identity: str) -> bool:
        return self._net.accept_session_with_user(identity)

    def close_session(self, identity: str) -> bool:
        return self._net.close_session_with_user(identity)

    def close_channel(self, identity: str, channel: int) -> bool:
        return self._net.close_channel_with_user(identity, channel)

    def standing(self, identity: str) -> Standing | None:
        found = self._net.get_session_connection_info(identity, True, True)
        if found.connection is None:
            return None
        info, status = found.connection, found.status
        return Standing(
            state=int(info.state),
            end_reason=int(info.end_reason),
            end_debug=info.end_debug,
            flags=int(info.flags),
            address=info.address,
            description=info.description,
            remote_pop=info.remote_pop,
            pop_relay=info.pop_relay,
            ping_ms=status.ping_ms if status else None,
            pending_reliable=status.pending_reliable_bytes if status else 0,
            pending_unreliable=status.pending_unreliable_bytes if status else 0,
            unacked_reliable=status.sent_unacked_reliable_bytes if status else 0,
        )

    def set_option(self, name: str, value: float | str) -> None:
        raise UsageError(f"a running Messages takes no new value for {name!r} ({value!r})")

    def close(self) -> None:
        self._net.close()

    def _note_request(self, request: SessionRequested) -> None:
        self._events.append({"kind": "request", "identity": str(request.identity)})

    def _note_failure(self, failure: SessionFailed) -> None:
        self._events.append(
            {
                "kind": "failed",
                "identity": str(failure.identity),
                "state": int(failure.state),
                "end_reason": int(failure.reason),
                "end_debug": failure.debug,
            }
        )


def _make(options: PartyOptions) -> Party:
    return OurParty(options)


if __name__ == "__main__":
    serve(_make, (UsageError, TypeError, ValueError))
