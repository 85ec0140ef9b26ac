"""Records of one kind that follow each other, found without looking at each of them.

Programs send many messages of one size, and then whole stretches of a packet or a stream repeat the same few header bytes at the
same distance; slices with a stride compare them at once.
"""

from __future__ import annotations

from typing import Final

_FIRST_LOOK_RECORDS: Final = 16
_NEXT_LOOK_TIMES: Final = 8


def count_alike(buffer: bytes, at: int, header_bytes: int, stride: int, count_max: int) -> int:
    """How many whole records of `stride` bytes from `at` on begin with the same `header_bytes` as the first, at most `count_max`;
    0 if not even two.

    Only bytes at record borders are compared, so that what comes behind the last of them does not matter. It looks further only
    where all was alike so far: what it costs grows with what it finds, whatever somebody sends.
    """
    header = buffer[at : at + header_bytes]
    if buffer[at + stride : at + stride + header_bytes] != header:
        return 0
    total = min((len(buffer) - at) // stride, count_max)
    looked = _FIRST_LOOK_RECORDS
    while True:
        count = min(total, looked)
        end = at + count * stride
        for place in range(header_bytes):
            column = buffer[at + place : end : stride]
            count = min(count, len(column) - len(column.lstrip(header[place : place + 1])))
        if count < looked:
            return count if count > 1 else 0
        looked *= _NEXT_LOOK_TIMES
