"""The fuzz targets of handshake and identity decoders, under random bytes and damaged recordings."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import fuzz_certificates, fuzz_control, fuzz_identity, fuzz_link_stats, fuzz_signals

TARGETS = [fuzz_control, fuzz_certificates, fuzz_identity, fuzz_link_stats, fuzz_signals]
targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A recording with a few bytes changed, cut out, doubled or put in, perhaps ended early."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        data[start:end] = draw(st.one_of(st.binary(max_size=8), st.just(bytes(data[start:end]) * 2), st.just(b"\xff" * 10)))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


@targets
def test_recordings_keep_the_invariant(target: ModuleType) -> None:
    seeds = target.seeds()
    assert len(seeds) >= 4
    for seed in seeds:
        target.fuzz_one(seed)


@targets
@given(data=st.binary(max_size=600))
def test_random_bytes_keep_the_invariant(target: ModuleType, data: bytes) -> None:
    target.fuzz_one(data)


@targets
@given(data=st.data())
def test_damaged_recordings_keep_the_invariant(target: ModuleType, data: st.DataObject) -> None:
    target.fuzz_one(data.draw(damaged(target.seeds())))


@targets
@pytest.mark.parametrize("bomb", [b"\x0b" * 20_000, b"\x0b" * 9_999 + b"\x0c" * 9_999, b"\x0a\xff\x7f" * 5_000, b"\x80" * 20_000])
def test_bombs_keep_the_invariant(target: ModuleType, bomb: bytes) -> None:
    for lead in (
        b"",
        b"\x00",
        b"\x01",
        b"\x02",
        b"\x21",
        b"\x22",
        b"\x23",
        b"\x25",
        b"\x20\x00\x40",
        b"\x24\x00\x40",
        b"gen:",
        b"psn:",
        b"ip:",
    ):
        target.fuzz_one(lead + bomb)
