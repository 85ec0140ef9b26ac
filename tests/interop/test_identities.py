"""C5: identity texts, one by one, against the parser of the reference: it refuses what we refuse, and prints what we print."""

from __future__ import annotations

import ctypes
from random import Random

import pytest

from peergram.errors import UsageError
from peergram.identity import Identity
from tests.test_identity import spelled
from tests.threats.world import full_or

from .gns import GnsError, Library, RawIdentity, identity_text, library_path


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return Library(library_path())
    except GnsError as error:
        pytest.skip(f"no reference to test against: {error}")


def theirs(library: Library, text: bytes) -> str | None:
    identity = RawIdentity()
    size_bytes = ctypes.sizeof(identity)
    if not library.call("SteamAPI_SteamNetworkingIdentity_ParseString", ctypes.byref(identity), size_bytes, text):
        return None
    return identity_text(library, identity)


def ours(text: bytes) -> str | None:
    try:
        return Identity.parse_bytes(text).text_bytes.decode(errors="replace")
    except UsageError:
        return None


def test_the_reference_reads_and_prints_every_identity_as_we_do(library: Library) -> None:
    different = []
    for text in spelled(Random("identities"), full_or(100_000, 2_000)):
        if theirs(library, text) != ours(text):
            different.append((text, theirs(library, text), ours(text)))
    assert different == []
