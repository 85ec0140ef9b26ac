"""Who talks to whom without encryption: only two sides that both allow it."""

from __future__ import annotations

import pytest

from peergram import Config, EndReason, InfoFlags
from peergram.events import ConnectionState

from .conftest import ReferenceFactory
from .gns import State
from .ours import ROLES, THEIR_NAME, Duet, Role, connected

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("role", ROLES)]

UNENCRYPTED = 2
"""The same bit in our flags and in the reference's."""


@pytest.mark.parametrize(
    ("ours", "theirs", "is_plain"),
    [
        (0, 0, False),
        (0, 1, False),
        (1, 0, False),
        (1, 3, True),
        (2, 3, True),
        (3, 3, True),
        (3, 1, True),
        (3, 2, True),
        (2, 2, True),
    ],
)
def test_both_sides_agree_on_the_cipher_that_both_allow(
    reference: ReferenceFactory, free_port: int, role: Role, ours: int, theirs: int, is_plain: bool
) -> None:
    with connected(reference, free_port, role, Config(unencrypted=ours), settings={"unencrypted": theirs}) as duet:
        assert bool(duet.info.flags & InfoFlags.UNENCRYPTED) is is_plain
        assert bool(duet.reference.request("info")["info"]["flags"] & UNENCRYPTED) is is_plain
        sent = [b"", b"plain or not", bytes(30_000)]
        duet.send_all(sent)
        duet.expect_there(sent)
        duet.their_send(sent[1])
        duet.expect_here(sent[1:2])


@pytest.mark.parametrize(("ours", "theirs"), [(0, 3), (3, 0)])
def test_sides_that_have_no_cipher_in_common_refuse_each_other_and_say_why(
    reference: ReferenceFactory, free_port: int, role: Role, ours: int, theirs: int
) -> None:
    peer = reference(identity=THEIR_NAME, unencrypted=theirs)
    with Duet(peer, role, Config(unencrypted=ours)) as duet:
        duet.begin(free_port)
        duet.step_until(lambda: bool(duet.failures))
        (failure,) = duet.failures
        assert failure.reason == EndReason.REMOTE_BAD_CRYPT
        assert failure.debug.startswith("Failed to negotiate mutually-agreeable cipher")
        assert duet.info.end_reason == EndReason.REMOTE_BAD_CRYPT
        if role == "we dial":
            assert (failure.state, failure.unconfirmed.messages) == (ConnectionState.CLOSED_BY_PEER, 1)
        else:
            assert (failure.state, duet.accepted) == (ConnectionState.PROBLEM_DETECTED_LOCALLY, [False])
            info = peer.wait("closed")["info"]
            assert (info["state"], info["end_reason"]) == (State.CLOSED_BY_PEER, EndReason.REMOTE_BAD_CRYPT)
            assert info["end_debug"] == "Failed to negotiate mutually-agreeable cipher"
