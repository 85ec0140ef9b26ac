from __future__ import annotations

import time

from peergram.address import canonical_address
from peergram.drivers.system import default_source_host, has_family, monotonic_us, secure_entropy, wall_offset_us


def test_the_clock_never_goes_back() -> None:
    readings = [monotonic_us() for _ in range(1000)]
    assert readings == sorted(readings)


def test_the_offset_turns_the_clock_into_wall_time() -> None:
    assert abs(monotonic_us() + wall_offset_us() - time.time_ns() // 1000) < 1_000_000


def test_entropy_has_the_length_asked_for_and_never_repeats() -> None:
    assert [len(secure_entropy(size)) for size in (0, 1, 32)] == [0, 1, 32]
    assert len({secure_entropy(16) for _ in range(100)}) == 100


def test_the_default_source_is_a_canonical_address_or_unknown() -> None:
    host4, host6 = default_source_host(4), default_source_host(6)
    assert host4 is None or (canonical_address(host4, 0) == (host4, 0) and ":" not in host4)
    assert host6 is None or (canonical_address(host6, 0) == (host6, 0) and ":" in host6)


def test_ipv4_can_be_bound() -> None:
    assert has_family(4)
