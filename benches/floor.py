"""The floor: AES-256-GCM and batched UDP in plain Python, with nothing around them.

It tells what the ingredients cost, so that a protocol can see what it adds. Packets are sealed one by one with numbered nonces,
and handed to the kernel a batch at a time: `UDP_SEGMENT` on the way out, `UDP_GRO` on the way in (Linux only).

What it does not do: no handshake (the key is fixed), no acknowledgements, no repetition, no ordering, no replay check, no flow or
congestion control, no message headers. A large message is a row of packets that nobody joins again; lost packets are simply not
counted. It cannot be used for anything but this comparison.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benches.cases import (
    ECHO_TIMEOUT_S,
    FIRST_MESSAGE_TIMEOUT_S,
    Case,
    PingClock,
    Pinged,
    ReceiveClock,
    Received,
    SendClock,
    Sent,
    Task,
)

NAME = "floor"
DESCRIPTION = (
    "bare AES-256-GCM (cryptography) and batched UDP (`UDP_SEGMENT`, `UDP_GRO`) in plain Python; no handshake, acknowledgement, "
    "repetition, order, replay check, flow or congestion control, no message headers: what the ingredients cost, not a protocol"
)
LEFT_OUT = {"idle": "it has no connections, only a socket"}

_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
_SOCKET_BUFFER_BYTES = 4 << 20

_KEY = bytes(range(32))
_NONCE_BYTES = 12
_TAG_BYTES = 16
_DATAGRAM_BYTES_MAX = 1300
_PAYLOAD_BYTES_MAX = _DATAGRAM_BYTES_MAX - _NONCE_BYTES - _TAG_BYTES
_BATCH_PACKETS = 44
_LARGE_MESSAGES_PER_ROUND = 8
_HELLO = b"hello"
_HELLO_RETRY_S = 0.02
_ECHO_NUMBERS = 1 << 64
"""Both sides share a key, so the echo's nonces start far above the pinger's."""


def missing() -> str | None:
    """It needs Linux for its batches."""
    return None if sys.platform == "linux" else "UDP_SEGMENT and UDP_GRO exist on Linux only"


def sender(task: Task) -> Sent:
    """Seal and send without pause; a full socket blocks."""
    with _udp_socket() as link:
        link.connect(("127.0.0.1", task.port))
        _wait_for_receiver(link)
        messages = _application_messages(task.case)
        per_packet = _PAYLOAD_BYTES_MAX // task.case.message_bytes
        return _send_batches(link, messages, per_packet, SendClock(task.seconds))


def receiver(task: Task) -> Received:
    """Receive, open and split; a large message counts by the share of its bytes that came."""
    with _udp_socket() as link:
        link.bind(("127.0.0.1", task.port))
        link.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        _answer_sender(link)
        link.settimeout(0.1)
        is_small = task.case.message_bytes < _PAYLOAD_BYTES_MAX
        return _receive_batches(link, task.case.message_bytes, is_small, ReceiveClock(task.seconds))


def pinger(task: Task) -> Pinged:
    """Seal, send, wait in the kernel for the answer, open."""
    with _udp_socket() as link:
        link.connect(("127.0.0.1", task.port))
        _wait_for_receiver(link)
        link.settimeout(ECHO_TIMEOUT_S)
        cipher, message, clock, number = AESGCM(_KEY), bytes(task.case.message_bytes), PingClock(task.seconds), 0
        while clock.is_running():
            number += 1
            start_ns = time.perf_counter_ns()
            link.send(_sealed(cipher, number, message))
            try:
                answer = link.recv(_DATAGRAM_BYTES_MAX)
            except TimeoutError:
                clock.note_lost()
                continue
            cipher.decrypt(answer[:_NONCE_BYTES], answer[_NONCE_BYTES:], None)
            clock.note((time.perf_counter_ns() - start_ns) / 1000)
        return clock.account()


def echo(task: Task) -> None:
    """Open and seal again whatever comes."""
    with _udp_socket() as link:
        link.bind(("127.0.0.1", task.port))
        _answer_sender(link)
        link.settimeout(None)
        cipher, number = AESGCM(_KEY), 0
        while True:
            packet, sender_address = link.recvfrom(_DATAGRAM_BYTES_MAX)
            if len(packet) > len(_HELLO):
                number += 1
                message = cipher.decrypt(packet[:_NONCE_BYTES], packet[_NONCE_BYTES:], None)
                link.sendto(_sealed(cipher, _ECHO_NUMBERS + number, message), sender_address)


def _sealed(cipher: AESGCM, number: int, message: bytes) -> bytes:
    nonce = number.to_bytes(_NONCE_BYTES, "little")
    return nonce + cipher.encrypt(nonce, message, None)


def _send_batches(link: socket.socket, messages: list[bytes], per_packet: int, clock: SendClock) -> Sent:
    seal = AESGCM(_KEY).encrypt
    number = sent = 0
    while clock.is_running(sent):
        payloads = _join_small(messages, per_packet) if per_packet else _cut_large(messages)
        for start in range(0, len(payloads), _BATCH_PACKETS):
            packets = []
            for payload in payloads[start : start + _BATCH_PACKETS]:
                number += 1
                nonce = number.to_bytes(_NONCE_BYTES, "little")
                packets.append(nonce)
                packets.append(seal(nonce, payload, None))
            segment_bytes = struct.pack("H", _NONCE_BYTES + len(packets[1]))
            _send_or_drop(link, packets, segment_bytes)
        sent += len(messages)
    return clock.account(sent)


def _send_or_drop(link: socket.socket, packets: list[bytes], segment_bytes: bytes) -> None:
    try:
        link.sendmsg(packets, [(_SOL_UDP, _UDP_SEGMENT, segment_bytes)])
    except (ConnectionRefusedError, BlockingIOError):
        # The receiver has had enough, or the kernel has no room: either way these packets are lost.
        return


def _receive_batches(link: socket.socket, message_bytes: int, is_small: bool, clock: ReceiveClock) -> Received:
    opener = AESGCM(_KEY).decrypt
    count = payload_bytes = 0
    control_bytes = socket.CMSG_SPACE(4)
    is_over = False
    while not is_over:
        try:
            data, control, _, _ = link.recvmsg(65_535, control_bytes)
        except TimeoutError:
            is_over = clock.note(count if is_small else payload_bytes / message_bytes)
            continue
        if len(data) == len(_HELLO):
            continue
        step = struct.unpack("i", control[0][2])[0] if control else len(data)
        for start in range(0, len(data), step):
            sealed_at = start + _NONCE_BYTES
            payload = opener(data[start:sealed_at], data[sealed_at : start + step], None)
            if is_small:
                messages = [payload[at : at + message_bytes] for at in range(0, len(payload), message_bytes)]
                count += len(messages)
            else:
                payload_bytes += len(payload)
        is_over = clock.note(count if is_small else payload_bytes / message_bytes)
    return clock.account()


def _application_messages(case: Case) -> list[bytes]:
    """What the application has ready each time: enough for at least one full batch of packets."""
    if case.message_bytes >= _PAYLOAD_BYTES_MAX:
        return [bytes(case.message_bytes)] * _LARGE_MESSAGES_PER_ROUND
    count = _BATCH_PACKETS * (_PAYLOAD_BYTES_MAX // case.message_bytes)
    return [index.to_bytes(2, "little") * (case.message_bytes // 2) for index in range(count)]


def _join_small(messages: list[bytes], per_packet: int) -> list[bytes]:
    return [b"".join(messages[start : start + per_packet]) for start in range(0, len(messages), per_packet)]


def _cut_large(messages: list[bytes]) -> list[bytes]:
    stream = b"".join(messages)
    return [stream[start : start + _PAYLOAD_BYTES_MAX] for start in range(0, len(stream), _PAYLOAD_BYTES_MAX)]


def _udp_socket() -> socket.socket:
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
    return link


def _wait_for_receiver(link: socket.socket) -> None:
    link.settimeout(_HELLO_RETRY_S)
    for _ in range(int(FIRST_MESSAGE_TIMEOUT_S / _HELLO_RETRY_S)):
        try:
            link.send(_HELLO)
            link.recv(len(_HELLO))
            break
        except ConnectionRefusedError:
            _pause(link)
        except TimeoutError:
            continue
    else:
        raise TimeoutError("the floor's receiver does not answer")
    link.settimeout(None)


def _pause(link: socket.socket) -> None:
    """Wait on the socket rather than spin while nobody has the port."""
    try:
        link.recv(1)
    except OSError:
        return


def _answer_sender(link: socket.socket) -> None:
    link.settimeout(FIRST_MESSAGE_TIMEOUT_S)
    _, address = link.recvfrom(len(_HELLO))
    link.sendto(_HELLO, address)
