"""The receiver's decisions, replayed from recordings of the reference: every case, step by step, by both ways of reading."""

from __future__ import annotations

from typing import Any

import pytest

from peergram.config import Config
from peergram.connection.limits import REFERENCE
from peergram.connection.receive import DISCARDED, OK, REFUSED, ConnectionViolated, Receiver
from peergram.wire.data_packet import expand_packet_number
from tests.connection.flows import delivered_messages, make_flow
from tests.vectors_data import load

VECTORS = load("02-snp")
CASES: list[dict[str, Any]] = VECTORS["receiver_cases"]
OUTCOMES = {
    "ok": OK,
    "processed but treated as lost (never acked)": REFUSED,
    "rest of packet discarded, not acked, connection continues": DISCARDED,
}


class Receiving:
    """A fresh receiver, fed payloads by packet number."""

    def __init__(self, case: dict[str, Any], straight: bool) -> None:
        limited = any("max 2 segs" in step["what"] for step in case["steps"])
        config = Config(recv_segments_per_packet_max=2) if limited else Config()
        self.flow = make_flow(config, REFERENCE)
        self.receiver = Receiver(self.flow, lambda _record, _now_us: None)
        self.receiver.straight = straight

    def step(self, step: dict[str, Any]) -> tuple[str, list[list[object]]]:
        number = expand_packet_number(step["pkt"] & 0xFFFF, self.flow.replay.highest)
        if not self.flow.replay.is_new(number):
            return "duplicate or too old, not processed", []
        try:
            outcome = self.receiver.handle_payload(bytes.fromhex(step["payload"]), number, 2_000_000)
        except ConnectionViolated as violation:
            return f"connection ended, reason {int(violation.reason)}", []
        if outcome != DISCARDED:
            # Ours records a discarded packet too, so that a replay of it does nothing; the reference forgets it.
            self.flow.replay.add(number)
        result = next(name for name, value in OUTCOMES.items() if value == outcome)
        delivered: list[list[object]] = [
            [lane, number, "rel" if reliable else "unr", len(data), data[:12].hex()]
            for lane, number, reliable, data in delivered_messages(self.flow.delivered)
        ]
        self.flow.delivered.clear()
        return result, delivered


@pytest.mark.parametrize("straight", [True, False], ids=["straight", "careful"])
@pytest.mark.parametrize("case", CASES, ids=[f"{at}-{case['steps'][0]['what'][:40]}" for at, case in enumerate(CASES)])
def test_every_step_has_the_outcome_the_reference_showed(case: dict[str, Any], straight: bool) -> None:
    receiving = Receiving(case, straight)
    for step in case["steps"]:
        result, delivered = receiving.step(step)
        assert result == step["result"], step["what"]
        if step["delivered"]:
            assert delivered == step["delivered"], step["what"]


def test_the_file_holds_all_cases_the_text_names() -> None:
    assert len(CASES) == VECTORS["counts"]["receiver_cases"] == 94
    assert sum(len(case["steps"]) for case in CASES) == VECTORS["counts"]["receiver_steps"] == 221
