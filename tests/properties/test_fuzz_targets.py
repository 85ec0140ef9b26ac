"""Everything that reads bytes or text from outside has a fuzz target, and the targets of whole parts hold for damaged
recordings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import fuzz_candidate, fuzz_endpoint, fuzz_goodbye, fuzz_payload, fuzz_relay, fuzz_relays, fuzz_trust_files
from tests.properties.test_decoders_01 import damaged

ROOT = Path(__file__).resolve().parent.parent.parent
READERS = ("decode_", "parse_", "read_")
INSIDE_ANOTHER = {
    "read_varint": "fuzz_frames",
    "decode_varint": "fuzz_frames",
    "decode_channel_header": "fuzz_endpoint",
    "parse_bytes": "fuzz_identity",
}
"""Readers that a target reaches through another one."""


def readers() -> list[str]:
    """Public functions of the library that take apart what comes from outside."""
    names = []
    for path in sorted((ROOT / "peergram").rglob("*.py")):
        part = path.relative_to(ROOT / "peergram").parts[0]
        if part in ("sim", "cli", "drivers"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith(READERS):
                names.append(node.name)
    return names


@pytest.mark.parametrize("name", readers())
def test_a_reader_has_a_fuzz_target(name: str) -> None:
    targets = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "fuzz").glob("fuzz_*.py")}
    if name in INSIDE_ANOTHER:
        assert INSIDE_ANOTHER[name] in targets
    else:
        assert any(name in text for text in targets.values()), f"no fuzz target calls {name}"


@given(damaged(fuzz_goodbye.seeds()) | st.binary(max_size=300))
def test_goodbyes_hold(data: bytes) -> None:
    fuzz_goodbye.fuzz_one(data)


@given(damaged(fuzz_candidate.seeds()) | st.binary(max_size=600))
def test_candidates_hold(data: bytes) -> None:
    fuzz_candidate.fuzz_one(data)


@given(damaged(fuzz_payload.seeds()) | st.binary(max_size=600))
def test_payloads_hold(data: bytes) -> None:
    fuzz_payload.fuzz_one(data)


@given(damaged(fuzz_relay.seeds()) | st.binary(max_size=300))
def test_relays_hold(data: bytes) -> None:
    fuzz_relay.fuzz_one(data)


@given(damaged(fuzz_trust_files.seeds()) | st.binary(max_size=600) | st.text(max_size=300).map(str.encode))
def test_files_of_keys_hold(data: bytes) -> None:
    fuzz_trust_files.fuzz_one(data)


@settings(max_examples=60)
@given(st.lists(damaged(fuzz_endpoint.seeds()), max_size=3).map(b"".join) | st.binary(max_size=600))
def test_datagrams_hold(data: bytes) -> None:
    fuzz_endpoint.fuzz_one(data)


@given(damaged(fuzz_relays.seeds()) | st.binary(max_size=600))
def test_relay_maps_locations_and_tickets_hold(data: bytes) -> None:
    fuzz_relays.fuzz_one(data)


def test_a_relay_map_a_location_and_tickets_are_written_as_they_were_read() -> None:
    for seed in fuzz_relays.seeds():
        fuzz_relays.fuzz_one(seed)
