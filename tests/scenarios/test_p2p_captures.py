"""What other hosts get to see of us, read from their wires: strangers, peers we hide from, victims, heirs of a peer's address.

Threats M5, I8, I2 and I3. Short by default; PEERGRAM_SOAK=1 also watches a minute of fruitless checks, and the half minute in
which a peer that vanished still gets data. Needs root, the `netlab` module (see `tests.lab`) and coturn.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.interop.party import now_us
from tests.lab import SOAK

from .capture import Capture, Packet, capture, mentions
from .nat_lab import OURS, NatLab, meet, nat_lab, world

WATCH_S = 60.0 if SOAK else 6.0
PACKETS_MAX = 160
BYTES_MAX = 16 * 1_024
CONSENT_S = 30.0
CHECK, CHECK_ANSWER = 0x001, 0x101
soak = pytest.mark.skipif(not SOAK, reason="a minute of waiting: set PEERGRAM_SOAK=1")


def own_addresses(lab: NatLab, host: str, router: str) -> list[str]:
    return [lab.lab.addr(host), lab.lab.addr(router)]


def about(packets: list[Packet], hosts: list[str]) -> list[Packet]:
    return [packet for packet in packets if any(mentions(packet, host) for host in hosts)]


def test_a_stranger_gets_no_packet_and_no_address_before_he_is_accepted() -> None:
    with nat_lab("full-cone", "none") as lab, capture(lab.lab, "bob") as seen, capture(lab.lab, "alice") as sent:
        alice = lab.peer("ours", "alice", "alice", accepts=False)
        bob = lab.peer("ours", "bob", "bob")
        bob.send(alice.identity, b"may I?")
        alice.until(lambda: bool(alice.events("request")), "bob asks", 10)
        time.sleep(3)
        ours = own_addresses(lab, "alice", "home1")
        assert about(seen.packets, ours) == []
        assert signals_from(lab, seen, "alice") == 0
        assert sent.udp() == [], "nobody is asked for our addresses either"
        # And these eyes do see what comes once he is let in.
        alice.request("accept", identity=bob.identity)
        assert alice.take()[1] == b"may I?"
        assert about(seen.packets, ours)
        assert signals_from(lab, seen, "alice") > 0


def signals_from(lab: NatLab, seen: Capture, name: str) -> int:
    server, start = lab.lab.addr("signal"), f"str:{name} ".encode()
    return sum(packet.source[0] == server and packet.payload.startswith(start) for packet in seen.packets)


@pytest.mark.parametrize("hides", [True, False], ids=["alice hides", "alice does not"])
def test_who_asks_for_relays_only_is_seen_by_nobody_else(hides: bool) -> None:
    with nat_lab("full-cone", "full-cone") as lab, ExitStack() as stack:
        hosts = ("bob", "stun", "signal", "turn")
        seen = {host: stack.enter_context(capture(lab.lab, host)) for host in hosts}
        alice = lab.peer("ours", "alice", "alice", settings={"candidates": "relay"} if hides else {})
        bob = lab.peer("ours", "bob", "bob")
        meeting = meet(alice, bob)
        print(f"\nhides: {hides}: {meeting}")
        private, public = own_addresses(lab, "alice", "home1")
        at_bob = about(seen["bob"].packets, [private, public])
        at_stun = about(seen["stun"].packets, [private, public])
        in_signals = [packet for packet in seen["signal"].packets if mentions_payload(packet, private, public)]
        # The relay knows where we are, and nothing may say so but its answer to us.
        at_relay = [
            packet for packet in seen["turn"].packets if mentions_payload(packet, private, public) and packet.target[0] != public
        ]
        assert [bool(each) for each in (at_bob, at_stun, in_signals)] == [not hides] * 3
        assert not hides or not at_relay
        assert not about(seen["turn"].packets, [private]) or not hides
        assert meeting.route == ("relay" if hides else "direct")
        assert about(seen["bob"].packets, own_addresses(lab, "bob", "home2")), "these eyes see addresses"


def mentions_payload(packet: Packet, *hosts: str) -> bool:
    return any(mentions(packet, host, payload_only=True) for host in hosts)


@pytest.mark.parametrize("has_session", [False, True], ids=["instead of its own", "once it has a session"])
def test_a_host_that_a_peer_lists_a_thousand_times_gets_few_packets(has_session: bool) -> None:
    words = "alice@home1:port-restricted carol@home1 bob@home2:port-restricted victim@inet"
    with world(words) as lab, capture(lab.lab, "victim") as at_victim, capture(lab.lab, "carol") as at_carol:
        others = [lab.lab.addr("victim"), lab.lab.addr("carol")]
        subnet_broadcast = lab.lab.addr("alice").rpartition(".")[0] + ".255"
        nowhere = f"224.0.0.1:9 255.255.255.255:9 {subnet_broadcast}:9 127.0.0.1:9 0.0.0.0:9"
        lists = f"{nowhere} {others[0]}:1001-1020 {others[1]}:1001-1100 {others[0]}:1101-1200"
        alice = lab.peer("ours", "alice", "alice")
        bob = lab.peer("hostile", "bob", "bob", settings={"lists": lists, "has_session": has_session})
        bob.send(alice.identity, b"hello")
        if has_session:
            assert alice.take()[1] == b"hello"
        time.sleep(WATCH_S)
        from_alice = {
            "victim": at_victim.udp(source=lab.lab.addr("home1")),
            "carol": at_carol.udp(source=lab.lab.addr("alice"), target=others[1]),
        }
        for name, packets in from_alice.items():
            size = sum(len(packet.payload) for packet in packets)
            whole = sum(packet.ip_bytes for packet in packets)
            ports = len({packet.target[1] for packet in packets})
            print(f"\nsession: {has_session}, {name}: {len(packets)} packets, {size} bytes, {whole} with headers, {ports} ports")
            assert len(packets) <= PACKETS_MAX
            assert size <= BYTES_MAX
        assert any(from_alice.values()), "somebody was listed in vain"
        to_many = [packet for packet in at_carol.udp() if packet.target[0] in ("224.0.0.1", "255.255.255.255", subnet_broadcast)]
        assert to_many == []


@soak
def test_data_ends_thirty_seconds_after_the_last_consent_of_a_peer_that_vanished() -> None:
    with nat_lab("port-restricted", "port-restricted") as lab, capture(lab.lab, "bob") as seen:
        alice, bob = lab.pair(OURS)
        meet(alice, bob)
        alice.talk(bob.identity, 60, per_s=520, size_bytes=1_200)
        time.sleep(5)
        bob.kill()
        killed_us = now_us()
        # Whoever has the address now takes what comes, and his machine does not refuse it.
        (port, _), *_ = Counter(packet.target[1] for packet in seen.udp(target=lab.lab.addr("bob"))).most_common(1)
        heir = lab.lab.socket("bob", bind=("", port))
        time.sleep(CONSENT_S + 20)
        heir.close()
        own = lab.lab.addr("bob")
        # All that is authentic and comes from bob is his consent: answers to checks, checks, and data.
        consent_us = max(packet.at_us for packet in seen.udp(source=own) if packet.source[1] == port)
        incoming = [packet for packet in seen.udp(target=own) if packet.target[1] == port]
        data = [packet for packet in incoming if not packet.is_stun]
        load = sum(packet.ip_bytes for packet in data if packet.at_us < killed_us) * 8 / 5e6
        after = [packet for packet in data if packet.at_us > killed_us]
        last_s = (data[-1].at_us - consent_us) / 1e6
        checks = sum(packet.stun_type == CHECK for packet in incoming if packet.at_us > killed_us)
        print(f"\n{load:.1f} Mbit/s; {len(after)} data packets and {checks} checks after the end, the last after {last_s:.1f} s")
        assert load > 4
        assert last_s <= CONSENT_S
