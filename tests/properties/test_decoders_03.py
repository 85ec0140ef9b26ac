"""The fuzz targets of STUN and of routers' answers, under random bytes and damaged recordings."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import fuzz_router, fuzz_stun
from tests.properties.test_decoders_01 import damaged

TARGETS = [fuzz_stun, fuzz_router]
targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)


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
@pytest.mark.parametrize(
    "bomb",
    [
        b"\x03" + b"<service>" * 5_000,
        b"\x03" + b"<service><serviceType>" * 3_000,
        b"\x02HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 8_000,
        b"\x02HTTP/1.1 200 " + b"content-length: \t " * 3_000,
        b"\x01HTTP/1.1 200 OK\r\n" + b"location: http://1.1.1.1/" * 2_000,
        b"\x01" + b"location:\t" * 5_000,
    ],
)
def test_long_answers_take_no_long_time(target: ModuleType, bomb: bytes) -> None:
    target.fuzz_one(bomb)
