"""The message mix of the long interop tests: the same list on both sides, from a seed, without sending it around.

Sizes come from a seeded generator, contents from SHAKE-128 of seed and index, so that any language could rebuild them. 8,900
messages fit one packet, 1,000 need several, 100 go up to the largest session message that the reference takes (524,283 bytes).
`Verifier` checks an arriving list against it.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

SMALL_BYTES_MAX = 1_200
MEDIUM_BYTES_MAX = 20_000
LARGE_BYTES_MAX = 524_283
_FAULTS_KEPT = 10


@dataclass(frozen=True, slots=True)
class Mix:
    """How many messages of which class, and the seed that fixes all else."""

    seed: int
    small: int = 8_900
    """Of 0 to 1,200 bytes."""
    medium: int = 1_000
    """Of 1,201 to 20,000 bytes."""
    large: int = 100
    """Of 20,001 to 524,283 bytes."""
    medium_bytes_max: int = MEDIUM_BYTES_MAX
    """Less than 20,000 keeps all medium ones below the size at which an unreliable message goes reliably."""


def message_sizes(mix: Mix) -> list[int]:
    """The size in bytes of every message, in sending order; each class has its smallest and largest size among the first two."""
    chance = random.Random(f"peergram mix {mix.seed}")
    classes = (
        (mix.small, 0, SMALL_BYTES_MAX),
        (mix.medium, SMALL_BYTES_MAX + 1, mix.medium_bytes_max),
        (mix.large, MEDIUM_BYTES_MAX + 1, LARGE_BYTES_MAX),
    )
    sizes = []
    for count, low, high in classes:
        sizes += [low, high, *(chance.randint(low, high) for _ in range(count))][:count]
    chance.shuffle(sizes)
    return sizes


def message(seed: int, index: int, size_bytes: int) -> bytes:
    """The content of one message."""
    return hashlib.shake_128(b"%d:%d" % (seed, index)).digest(size_bytes)


def messages(mix: Mix) -> Iterator[bytes]:
    """All messages of the mix in sending order."""
    for index, size_bytes in enumerate(message_sizes(mix)):
        yield message(mix.seed, index, size_bytes)


@dataclass(slots=True)
class Verdict:
    """What arrived; `faults` holds the first few sentences, `fault_count` counts them all."""

    expected: int
    received: int = 0
    received_bytes: int = 0
    fault_count: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Everything is here, and nothing was wrong."""
        return self.received == self.expected and not self.fault_count


class Verifier:
    """Compares arriving messages with a mix.

    Reliable: each exactly once and in order. Unreliable: each at most once, in any order, whole. Messages of equal content (tiny
    ones) are as good as one another.
    """

    def __init__(self, mix: Mix, *, is_reliable: bool) -> None:
        self._digests = [_digest(data) for data in messages(mix)]
        self._is_reliable = is_reliable
        self._outstanding = Counter(self._digests)
        self._matched = 0
        self.verdict = Verdict(expected=len(self._digests))

    def add(self, data: bytes) -> None:
        """Take the next arrived message."""
        digest = _digest(data)
        index = self.verdict.received
        self.verdict.received += 1
        self.verdict.received_bytes += len(data)
        if digest not in self._outstanding:
            self._fault(f"arrival {index} ({len(data)} bytes) was never sent")
        elif not self._outstanding[digest]:
            self._fault(f"arrival {index} ({len(data)} bytes) came twice")
        else:
            self._outstanding[digest] -= 1
            self._matched += 1
            if self._is_reliable and self._digests[self._matched - 1] != digest:
                self._fault(f"arrival {index} ({len(data)} bytes) is message {self._digests.index(digest)}: out of order")

    def _fault(self, sentence: str) -> None:
        self.verdict.fault_count += 1
        if len(self.verdict.faults) < _FAULTS_KEPT:
            self.verdict.faults.append(sentence)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
