"""Three relays of unequal delay and a bad direct way; and who hides, read from the wires.

The way between the two homes makes a detour over a slow host, that to the relays does not. Needs root, the `netlab` module (see
`tests.lab`) and coturn.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.party import PartyProcess
from tests.lab import SOAK

from .capture import Packet, capture, mentions
from .nat_lab import TURN_PASSWORD, TURN_PORT, TURN_USER, NatLab, meet, world

HOMES = "alice@home1:full-cone bob@home2:full-cone turn3@inet detour@inet"
HOME_MS = 5
RELAYS_MS = {"turn": 20, "turn2": 10, "turn3": 35}
"""One way, from the middle of the internet to each relay."""
CODES = {"turn": "aaa", "turn2": "bbb", "turn3": "ccc"}
DETOUR_MS = 50
BEST_MS = 4 * HOME_MS + 4 * min(RELAYS_MS.values())
"""There and back through the nearest relay."""
SETTLED_S = 20.0
TALK_S = 10.0


@contextmanager
def relay_world(tmp_path: Path, *, detour_ms: int = DETOUR_MS, loss: int = 0) -> Iterator[NatLab]:
    """The lab, with its relays at work and a map of them in `tmp_path`."""
    with world(HOMES, relays=2) as lab:
        lab.start_relay("turn3")
        for home in ("home1", "home2"):
            lab.lab.impair(home, delay=HOME_MS)
        for host, delay_ms in RELAYS_MS.items():
            lab.lab.impair(host, delay=delay_ms)
        make_detour(lab)
        lab.lab.impair("detour", delay=detour_ms, loss=loss)
        pops = [
            {
                "code": code,
                "name": host,
                "latitude": 50 + index,
                "longitude": 8,
                "servers": [f"stun:{lab.lab.addr(host)}:{TURN_PORT}", f"turn:{lab.lab.addr(host)}:{TURN_PORT}"],
            }
            for index, (host, code) in enumerate(CODES.items())
        ]
        (tmp_path / "map.json").write_text(json.dumps({"version": 1, "pops": pops}))
        yield lab


def make_detour(lab: NatLab) -> None:
    """What comes from one home for the other passes the slow host first, which sends it back into the middle."""
    namespaces = lab.lab
    links = namespaces.s["links"]
    namespaces.call("detour", lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
    inet = namespaces._ns("inet")
    for node in ("detour", "inet"):
        for name in ("send_redirects", "accept_redirects", "rp_filter"):
            path = f"/proc/sys/net/ipv4/conf/all/{name}"
            subprocess.run(["ip", "netns", "exec", namespaces._ns(node), "sh", "-c", f"echo 0 > {path}"], check=True)
    run = ["ip", "-n", inet]
    for home, other in (("home1", "home2"), ("home2", "home1")):
        port = f"p{links[home]['n']}"
        subprocess.run([*run, "rule", "add", "iif", port, "to", lab.lab.addr(other), "lookup", "77", "pref", "50"], check=True)
    way = ["via", lab.lab.addr("detour"), "dev", f"p{links['detour']['n']}"]
    subprocess.run([*run, "route", "add", "default", *way, "table", "77"], check=True)


def peers(lab: NatLab, tmp_path: Path, *, hiding: tuple[bool, bool] = (False, False)) -> tuple[PartyProcess, PartyProcess]:
    told: dict[str, Any] = {"turn": [], "relay_map": str(tmp_path / "map.json"), "relay_tickets": f"{TURN_USER}:{TURN_PASSWORD}"}
    alice = lab.peer("ours", "alice", "alice", hide_ip=hiding[0], **told)
    return alice, lab.peer("ours", "bob", "bob", hide_ip=hiding[1], **told)


def talk_over(peers: tuple[PartyProcess, PartyProcess]) -> None:
    """Fifty messages a second each way from the first one on, over all moves; none is lost or doubled."""
    alice, bob = peers
    for peer, other in ((alice, bob), (bob, alice)):
        peer.talk(other.identity, TALK_S)
    alice.until(lambda: all(peer.said()["is_done"] for peer in peers), "all is sent", TALK_S + SETTLED_S)
    for peer, other in ((alice, bob), (bob, alice)):
        sent = peer.said()["sent"]
        peer.until(lambda peer=peer, other=other, sent=sent: other.heard(peer.identity).received == sent, "all came", SETTLED_S)  # type: ignore[misc]
        heard = other.heard(peer.identity)
        assert sent > 40 * TALK_S
        assert heard.doubled == 0
        assert heard.is_ordered


def test_the_way_chosen_is_within_a_tenth_of_the_best(tmp_path: Path) -> None:
    with relay_world(tmp_path) as lab:
        alice, bob = both = peers(lab, tmp_path)
        talk_over(both)
        # A session's ping is a median over what it saw lately, so that it follows a move after a while.
        alice.until(lambda: max(pings(alice, bob)) <= 1.1 * BEST_MS, "the pings are those of the best way", 2 * SETTLED_S)
        print(f"\npings {pings(alice, bob)} ms, best possible {BEST_MS} ms, direct {4 * (HOME_MS + DETOUR_MS)} ms")
        for peer, other in ((alice, bob), (bob, alice)):
            standing = peer.standing(other.identity)
            assert standing is not None
            assert (standing.route, standing.pop_relay, standing.remote_pop) == ("relay", "bbb", "bbb")


def test_a_good_direct_way_is_kept(tmp_path: Path) -> None:
    with relay_world(tmp_path, detour_ms=1) as lab:
        alice, bob = both = peers(lab, tmp_path)
        talk_over(both)
        standing = alice.standing(bob.identity)
        assert standing is not None
        assert (standing.route, standing.pop_relay, standing.remote_pop) == ("direct", "", "bbb")


def pings(alice: PartyProcess, bob: PartyProcess) -> list[int]:
    standings = [peer.standing(other.identity) for peer, other in ((alice, bob), (bob, alice))]
    return [9_999 if each is None or each.ping_ms is None else each.ping_ms for each in standings]


HIDERS = [(True, True), (True, False), (False, True)] if SOAK else [(True, True), (True, False)]


@pytest.mark.parametrize("hiding", HIDERS, ids=lambda hiding: "-".join("hides" if each else "shows" for each in hiding))
def test_whoever_hides_is_seen_by_relays_alone(tmp_path: Path, hiding: tuple[bool, bool]) -> None:
    with relay_world(tmp_path) as lab, ExitStack() as stack:
        hosts = ("alice", "bob", "signal", "stun", *RELAYS_MS)
        seen = {host: stack.enter_context(capture(lab.lab, host)) for host in hosts}
        alice, bob = peers(lab, tmp_path, hiding=hiding)
        meeting = meet(alice, bob, timeout_s=SETTLED_S)
        print(f"\n{hiding}: {meeting}")
        assert meeting.route == "relay"
        addresses = {"alice": places(lab, "alice", "home1"), "bob": places(lab, "bob", "home2")}
        relays = {lab.lab.addr(host) for host in RELAYS_MS}
        for who, other, hides in (("alice", "bob", hiding[0]), ("bob", "alice", hiding[1])):
            ours, theirs = addresses[who], addresses[other]
            if not hides:
                continue
            sent = [packet for packet in seen[who].packets if packet.source[0] in ours]
            assert {packet.target[0] for packet in sent} <= relays | {lab.lab.addr("signal")}
            assert not [packet for packet in seen[who].packets if packet.target[0] in theirs]
            assert not named(seen[other].packets, ours)
            assert not named(seen["stun"].packets, ours)
            assert not named([packet for packet in seen["signal"].packets if packet.payload], ours, payload_only=True)
            for host in RELAYS_MS:
                # A relay tells us where we are seen from, and nobody else.
                told = [packet for packet in seen[host].packets if packet.target[0] not in ours]
                assert not named(told, ours, payload_only=True, but_from=ours)
        if not all(hiding):
            shown = addresses["bob" if hiding[0] else "alice"]
            assert named(seen["signal"].packets, shown, payload_only=True), "these eyes do see an address in a signal"


def places(lab: NatLab, host: str, router: str) -> list[str]:
    return [lab.lab.addr(host), lab.lab.addr(router)]


def named(
    packets: list[Packet], hosts: list[str], *, payload_only: bool = False, but_from: list[str] | None = None
) -> list[Packet]:
    """Packets in which one of these addresses appears."""
    return [
        packet
        for packet in packets
        if packet.source[0] not in (but_from or []) and any(mentions(packet, host, payload_only=payload_only) for host in hosts)
    ]
