"""Rendezvous signals (chapter 3 of the P2P protocol; `CMsgSteamNetworkingP2PRendezvous`): one blob of a signaling service each.

A signal has no kind of its own: it is a connect request, an answer, a close, or only acknowledgements and news, by the parts it
has. None stands for what is absent; the reference tells that apart from zero and from empty text, and so do we. Who a signal
claims to come from is text that nobody has checked.

A well-formed signal may still lack what the protocol asks for, such as the certificate of a request. The reference answers some
of that and ignores the rest, so that it is for the reader of the value to decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peergram.config import (
    PING_LOCATION_BYTES_MAX,
    SIGNAL_APPLICATION_MESSAGES_MAX,
    SIGNAL_BYTES_MAX,
    SIGNAL_CANDIDATE_BYTES_MAX,
    SIGNAL_GOODBYE_BYTES_MAX,
    SIGNAL_PASSWORD_BYTES_MAX,
    SIGNAL_RELIABLE_MAX,
)
from peergram.errors import WireError
from peergram.wire.certificates import (
    IDENTITY_STRING_BYTES_MAX,
    SignedCertificate,
    SignedCryptInfo,
    signed_certificate_from,
    signed_certificate_into,
    signed_crypt_info_from,
    signed_crypt_info_into,
)
from peergram.wire.close_text import close_text_from, close_text_into
from peergram.wire.proto import signals_pb2 as pb
from peergram.wire.proto.message import parse, within


@dataclass(slots=True)
class ReliableSignal:
    """One numbered entry: a candidate's text, the sender's ICE password, or where he is. One that is none of these still has its
    number."""

    candidate: bytes | None = None
    password: bytes | None = field(default=None, repr=False)
    location: bytes | None = None
    """Our own extension: the sender's ping location as text (docs/relay_network.md)."""


@dataclass(slots=True)
class SignalConnectRequest:
    """The initiator's certificate, its half of the keys, and the virtual ports."""

    cert: SignedCertificate | None
    crypt: SignedCryptInfo | None
    to_virtual_port: int | None = None
    from_virtual_port: int | None = None


@dataclass(slots=True)
class SignalConnectOk:
    """The acceptor's certificate and its half of the keys."""

    cert: SignedCertificate | None
    crypt: SignedCryptInfo | None


@dataclass(slots=True)
class SignalClosed:
    """The sender's end is gone. `debug` is at most 127 bytes of UTF-8; more is cut, in both directions.

    `goodbye` is our own extension: the packet by which own peers say so inside the encryption, for one that no packet reaches.
    """

    reason: int
    debug: str = ""
    goodbye: bytes = b""


@dataclass(slots=True)
class ApplicationSignal:
    """A message that went by signal, since there was no path yet; the reference takes it, and never sends it."""

    data: bytes
    message_number: int = 0
    flags: int = 0
    lane: int = 0


@dataclass(slots=True)
class Signal:
    """One signal. `first_reliable` is the number of the first entry of `reliable`, `ack_reliable` that of the peer's last one."""

    to_connection_id: int | None = None
    from_connection_id: int | None = None
    from_identity: bytes | None = None
    to_identity: bytes | None = None
    ice_enabled: bool | None = None
    connect_request: SignalConnectRequest | None = None
    connect_ok: SignalConnectOk | None = None
    connection_closed: SignalClosed | None = None
    ack_reliable: int | None = None
    first_reliable: int | None = None
    reliable: list[ReliableSignal] = field(default_factory=list)
    application_messages: list[ApplicationSignal] = field(default_factory=list)


def decode_signal(blob: bytes) -> Signal:
    """Read one signal. Raises WireError if it is malformed, too long, or has too many or too long parts."""
    message = parse(pb.Signal, within(blob, SIGNAL_BYTES_MAX, "signal"))
    if len(message.reliable) > SIGNAL_RELIABLE_MAX:
        raise WireError(f"signal: {len(message.reliable)} reliable entries, at most {SIGNAL_RELIABLE_MAX} are taken")
    if len(message.application_messages) > SIGNAL_APPLICATION_MESSAGES_MAX:
        raise WireError(
            f"signal: {len(message.application_messages)} messages, at most {SIGNAL_APPLICATION_MESSAGES_MAX} are taken"
        )
    has = message.HasField
    return Signal(
        to_connection_id=message.to_connection_id if has("to_connection_id") else None,
        from_connection_id=message.from_connection_id if has("from_connection_id") else None,
        from_identity=_identity_text(message.from_identity) if has("from_identity") else None,
        to_identity=_identity_text(message.to_identity) if has("to_identity") else None,
        ice_enabled=message.ice_enabled if has("ice_enabled") else None,
        connect_request=_request_from(message.connect_request) if has("connect_request") else None,
        connect_ok=_ok_from(message.connect_ok) if has("connect_ok") else None,
        connection_closed=_closed_from(message.connection_closed) if has("connection_closed") else None,
        ack_reliable=message.ack_reliable if has("ack_reliable") else None,
        first_reliable=message.first_reliable if has("first_reliable") else None,
        reliable=[_reliable_from(entry) for entry in message.reliable],
        application_messages=[
            ApplicationSignal(entry.data, entry.msg_num, entry.flags, entry.lane_idx) for entry in message.application_messages
        ],
    )


def encode_signal(signal: Signal) -> bytes:
    """The blob, with its fields in ascending order as the reference writes them."""
    return pb.Signal(
        to_connection_id=signal.to_connection_id,
        connect_request=_request_into(signal.connect_request) if signal.connect_request else None,
        connect_ok=_ok_into(signal.connect_ok) if signal.connect_ok else None,
        connection_closed=_closed_into(signal.connection_closed) if signal.connection_closed else None,
        ice_enabled=signal.ice_enabled,
        from_identity=signal.from_identity,
        from_connection_id=signal.from_connection_id,
        to_identity=signal.to_identity,
        ack_reliable=signal.ack_reliable,
        first_reliable=signal.first_reliable,
        reliable=[_reliable_into(entry) for entry in signal.reliable],
        application_messages=[
            pb.ApplicationSignal(
                data=entry.data,
                msg_num=entry.message_number or None,
                flags=entry.flags or None,
                lane_idx=entry.lane or None,
            )
            for entry in signal.application_messages
        ],
    ).SerializeToString()


def _identity_text(text: bytes) -> bytes:
    return within(text, IDENTITY_STRING_BYTES_MAX, "signal: identity")


def _request_from(message: pb.SignalConnectRequest) -> SignalConnectRequest:
    return SignalConnectRequest(
        cert=signed_certificate_from(message.cert) if message.HasField("cert") else None,
        crypt=signed_crypt_info_from(message.crypt) if message.HasField("crypt") else None,
        to_virtual_port=message.to_virtual_port if message.HasField("to_virtual_port") else None,
        from_virtual_port=message.from_virtual_port if message.HasField("from_virtual_port") else None,
    )


def _request_into(request: SignalConnectRequest) -> pb.SignalConnectRequest:
    return pb.SignalConnectRequest(
        crypt=signed_crypt_info_into(request.crypt) if request.crypt else None,
        cert=signed_certificate_into(request.cert) if request.cert else None,
        to_virtual_port=request.to_virtual_port,
        from_virtual_port=request.from_virtual_port,
    )


def _ok_from(message: pb.SignalConnectOk) -> SignalConnectOk:
    return SignalConnectOk(
        cert=signed_certificate_from(message.cert) if message.HasField("cert") else None,
        crypt=signed_crypt_info_from(message.crypt) if message.HasField("crypt") else None,
    )


def _ok_into(accepted: SignalConnectOk) -> pb.SignalConnectOk:
    return pb.SignalConnectOk(
        crypt=signed_crypt_info_into(accepted.crypt) if accepted.crypt else None,
        cert=signed_certificate_into(accepted.cert) if accepted.cert else None,
    )


def _closed_from(message: pb.SignalClosed) -> SignalClosed:
    goodbye = within(message.goodbye, SIGNAL_GOODBYE_BYTES_MAX, "signal: goodbye")
    return SignalClosed(message.reason_code, close_text_from(message.debug), goodbye)


def _closed_into(closed: SignalClosed) -> pb.SignalClosed:
    return pb.SignalClosed(debug=close_text_into(closed.debug) or None, reason_code=closed.reason, goodbye=closed.goodbye or None)


def _reliable_from(message: pb.ReliableSignal) -> ReliableSignal:
    ice = message.ice
    candidate = within(ice.add_candidate.candidate, SIGNAL_CANDIDATE_BYTES_MAX, "signal: candidate")
    password = within(ice.auth.pwd_frag, SIGNAL_PASSWORD_BYTES_MAX, "signal: password")
    location = within(message.location, PING_LOCATION_BYTES_MAX, "signal: location")
    return ReliableSignal(
        candidate=candidate if ice.HasField("add_candidate") else None,
        password=password if ice.HasField("auth") else None,
        location=location if message.HasField("location") else None,
    )


def _reliable_into(entry: ReliableSignal) -> pb.ReliableSignal:
    if entry.candidate is None and entry.password is None:
        return pb.ReliableSignal(location=entry.location)
    return pb.ReliableSignal(
        location=entry.location,
        ice=pb.IceSignal(
            add_candidate=None if entry.candidate is None else pb.IceCandidate(candidate=entry.candidate),
            auth=None if entry.password is None else pb.IceAuth(pwd_frag=entry.password),
        ),
    )
