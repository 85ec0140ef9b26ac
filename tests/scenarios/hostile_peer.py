"""Ours as a peer by identity that lists others' addresses as its own: `tests.scenarios.p2p_peer` with settings of its own.

`settings["lists"]` is a text of addresses, `203.0.113.2:1-1000 224.0.0.1:9`, each with one port or a run of them; they are
announced with a higher priority than true ones have. With `settings["has_session"]` that happens once a session is up, else
instead of the true ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

from peergram.endpoint.call import Call
from peergram.endpoint.calls import Calls
from peergram.errors import UsageError
from peergram.routes.candidates import PRIORITY_MAX, Candidate, CandidateKind, LocalCandidate, encode_candidate
from peergram.routes.ice_agent import IceAgent
from peergram.wire.signals import ReliableSignal
from tests.interop.party import Party, PartyOptions, serve

from .p2p_peer import OurParty


def listed(text: str) -> list[tuple[str, int]]:
    """All addresses of such a text."""
    addresses = []
    for word in text.split():
        host, _, ports = word.rpartition(":")
        first, _, last = ports.partition("-")
        addresses += [(host, port) for port in range(int(first), int(last or first) + 1)]
    return addresses


@contextmanager
def others_listed(addresses: list[tuple[str, int]], *, has_session: bool) -> Iterator[None]:
    """All calls of this process announce these meanwhile."""
    start_agent, follow = Calls._start_agent, Calls._follow
    told: set[int] = set()

    def tell(call: Call, now_us: int) -> None:
        for number, address in enumerate(addresses):
            false = Candidate(CandidateKind.HOST, address, PRIORITY_MAX - number, "1")
            call.rendezvous.queue(ReliableSignal(candidate=encode_candidate(false).encode()), now_us)

    def start(calls: Calls, call: Call, now_us: int, *, controlling: bool) -> None:
        tell(call, now_us)
        start_agent(calls, call, now_us, controlling=controlling)

    def use_only(_call: Call, agent: IceAgent, candidate: LocalCandidate, now_us: int) -> None:
        agent.add_local(candidate, now_us)

    def follow_and_tell(calls: Calls, call: Call, agent: IceAgent, now_us: int) -> None:
        follow(calls, call, agent, now_us)
        if call.way is not None and id(call) not in told:
            told.add(id(call))
            tell(call, now_us)

    with ExitStack() as stack:
        if has_session:
            stack.enter_context(patch.object(Calls, "_follow", follow_and_tell))
        else:
            stack.enter_context(patch.object(Calls, "_start_agent", start))
            stack.enter_context(patch.object(Calls, "_offer", staticmethod(use_only)))
        yield


def _make(options: PartyOptions) -> Party:
    return OurParty(options)


def main() -> None:
    """As `p2p_peer`, with what the settings say of it."""
    options = PartyOptions.from_json(sys.argv[1])
    settings = dict(options.settings)
    addresses, has_session = listed(str(settings.pop("lists"))), bool(settings.pop("has_session", False))
    sys.argv[1] = replace(options, settings=settings).to_json()
    with others_listed(addresses, has_session=has_session):
        serve(_make, (UsageError, TypeError, ValueError))


if __name__ == "__main__":
    main()
