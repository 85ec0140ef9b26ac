"""Worlds of two real endpoints that know each other by name only: what `peergram sim --p2p` and the tests run."""

from __future__ import annotations

from collections.abc import Callable

from peergram.config import Config
from peergram.identity import Identity
from peergram.sim.p2p_scenario import P2P_WIRE_CHECKERS, ServerList, check_p2p_replay, draw_p2p, run_p2p
from peergram.sim.swarm import SeedResult
from peergram.sim.trace import replay_command
from peergram.sim.world import EndpointLike, MakeEndpoint


def make_endpoints(servers: ServerList) -> MakeEndpoint:
    """The real thing, told of these servers."""
    from peergram.crypto.keys import SigningKey
    from peergram.endpoint.endpoint import Endpoint
    from peergram.routes.ice_servers import IceServers, StunServer, TurnServer

    ice_servers = IceServers(
        stun=tuple(StunServer(host, port) for host, port in servers.stun),
        turn=tuple(
            TurnServer(host, port, transport, user.decode(), password.decode())
            for host, port, transport, user, password in servers.turn
        ),
    )

    def make(identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None) -> EndpointLike:
        key = SigningKey(key_seed) if key_seed is not None else None
        endpoint: EndpointLike = Endpoint(identity, config=config, entropy=entropy, key=key, ice_servers=ice_servers)
        return endpoint

    return make


def run_p2p_seed(seed: int, *, trace: bool = False, twice: bool = False) -> SeedResult:
    """Draw the world of `seed`, run it, and say what was found; `twice` also compares two runs (V17)."""
    scenario = draw_p2p(seed)
    if twice:
        result = check_p2p_replay(scenario, make=make_endpoints, checkers=P2P_WIRE_CHECKERS)
    else:
        result = run_p2p(scenario, make=make_endpoints, checkers=P2P_WIRE_CHECKERS, trace=trace)
    result.command = replay_command(seed, is_p2p=True)
    if not trace:
        result.trace = []
    return result
