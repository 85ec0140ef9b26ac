"""Candidate text from a peer's signals."""

from __future__ import annotations

from fuzz.run import load_vectors, run
from peergram.address import canonical_address
from peergram.config import ICE_CANDIDATE_BYTES_MAX
from peergram.errors import WireError
from peergram.routes.candidates import PRIORITY_MAX, decode_candidate, encode_candidate


def fuzz_one(data: bytes) -> None:
    """A text is refused with WireError, or is a candidate with a canonical address and good numbers, and its text reads back."""
    try:
        candidate = decode_candidate(data)
    except WireError:
        return
    assert len(data) <= ICE_CANDIDATE_BYTES_MAX
    assert canonical_address(*candidate.address) == candidate.address
    assert candidate.address[1] != 0
    assert 0 <= candidate.priority <= PRIORITY_MAX
    assert decode_candidate(encode_candidate(candidate)) == candidate


def seeds() -> list[bytes]:
    """The reference's candidates, and what else its parser takes."""
    return [text.encode() for text in load_vectors("03-ice")["candidates"]] + [
        b"candidate:1 1 UDP 1  2001:db8::1 1 typ srflx raddr 10.0.0.1 rport 5",
    ]


if __name__ == "__main__":
    run(fuzz_one, seeds())
