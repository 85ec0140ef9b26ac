"""Fuzz target: decrypted payloads given to a live receiver, one after another (below the encryption)."""

from __future__ import annotations

from peergram.config import Config
from peergram.connection.flow import Flow
from peergram.connection.handshake import Established
from peergram.connection.receive import ConnectionViolated, Receiver
from peergram.crypto.seal import NullCipher
from peergram.identity import Identity

CONFIG = Config(recv_buffer_bytes=65_536, recv_buffer_messages=50, recv_message_bytes_max=16_384)
_SLACK_BYTES = 20_000


def fuzz_one(data: bytes) -> None:
    """Whatever an authentic peer sends is taken, or ends the connection; what is held stays within the limits, and nothing
    raises.

    The input is a row of payloads, each led by two bytes: its length, and how far its packet number is ahead.
    """
    flow = make_flow()
    receiver = Receiver(flow, lambda _record, _now_us: None)
    number, now_us, at = 1, 1_000_000, 0
    while at + 2 <= len(data):
        size, jump = data[at] * 2, data[at + 1] & 7
        payload = data[at + 2 : at + 2 + size]
        at += 2 + size
        number += 1 + jump
        now_us += 1_000
        if not flow.replay.is_new(number):
            continue
        flow.replay.add(number)
        try:
            receiver.handle_payload(payload, number, now_us)
        except ConnectionViolated:
            return
        assert flow.room.unread_messages == sum(len(batch[2]) for batch in flow.delivered) <= CONFIG.recv_buffer_messages
        held = sum(lane.reliable.buffered_bytes + lane.unreliable.stored_bytes for lane in flow.receive_lanes.values())
        assert held <= flow.room.stream_bytes <= CONFIG.recv_buffer_bytes + _SLACK_BYTES
        flow.acks.report(now_us)


def make_flow() -> Flow:
    cipher = NullCipher()
    peer = Identity.of("fuzz")
    established = Established(cipher, cipher, 1, 0x00020002, peer, bytes(32), "", 13, None, "nothing", 2, 1, [], None)
    return Flow(established, CONFIG, 1_000_000)


def seeds() -> list[bytes]:
    from fuzz.run import load_vectors

    cases = load_vectors("02-snp")["receiver_cases"]
    rows = [[bytes.fromhex(step["payload"]) for step in case["steps"]] for case in cases]
    return [b"".join(bytes(((len(p) + 1) // 2 & 255, 0)) + p.ljust((len(p) + 1) // 2 * 2, b"\0") for p in row) for row in rows]


if __name__ == "__main__":
    from fuzz.run import run

    run(fuzz_one, seeds())
