from __future__ import annotations

from peergram.identity import Identity
from peergram.sim.hub import SignalHub, SignalModel, alter_candidates
from peergram.sim.outside import Outside
from peergram.sim.p2p_scenario import ServerList
from peergram.sim.topology import Topology
from peergram.sim.world import Host, HostOptions, World
from tests.sim.rendezvous_endpoint import make_rendezvous

SECOND_US = 1_000_000
Heard = list[tuple[int, str | None, bytes]]


def a_hub(**model: object) -> tuple[World, SignalHub, list[Host], list[Heard]]:
    """Three hosts whose endpoints only note the signals they get."""
    world = World("hub", make_endpoint=make_rendezvous(ServerList([], [])))
    topology = Topology(world)
    hub = SignalHub(world, SignalModel(**model))  # type: ignore[arg-type]
    heard: list[Heard] = []
    for _ in range(3):
        host = world.add_host(options=HostOptions(listens=False), start=False)
        Outside(host, topology).attach()
        host.start()
        heard.append(note_signals(host))
    return world, hub, world.hosts, heard


def note_signals(host: Host) -> Heard:
    notes: Heard = []
    endpoint = host.endpoint
    assert endpoint is not None

    def handle_signal(sender: Identity | None, blob: bytes, now_us: int) -> None:
        notes.append((host.world.now_us, sender.text if sender else None, blob))

    endpoint.handle_signal = handle_signal  # type: ignore[attr-defined]
    return notes


def send_many(world: World, hub: SignalHub, hosts: list[Host], count: int = 1_000) -> None:
    for number in range(count):
        hub.send(hosts[0], hosts[1].identity, number.to_bytes(4, "big"))
        world.run_for(10_000)
    world.run_for(60 * SECOND_US)


def test_a_good_hub_delivers_once_in_order_with_the_senders_name() -> None:
    world, hub, hosts, heard = a_hub(delay_us=30_000)
    send_many(world, hub, hosts, 10)
    assert [(sender, int.from_bytes(blob, "big")) for _, sender, blob in heard[1]] == [("str:host-0", n) for n in range(10)]
    assert [at_us for at_us, _, _ in heard[1]][:2] == [30_000, 40_000]
    assert heard[0] == heard[2] == []


def test_loss_duplication_and_jitter_are_as_told() -> None:
    world, hub, hosts, heard = a_hub(loss=0.3, duplicate=0.2, jitter_us=SECOND_US)
    send_many(world, hub, hosts)
    numbers = [int.from_bytes(blob, "big") for _, _, blob in heard[1]]
    assert 640 < len(set(numbers)) < 760
    assert 1.15 < len(numbers) / len(set(numbers)) < 1.25
    assert numbers != sorted(numbers)


def test_an_outage_takes_nothing_for_its_time() -> None:
    world, hub, hosts, heard = a_hub()
    hub.outage(3 * SECOND_US)
    hub.send(hosts[0], hosts[1].identity, b"lost")
    world.run_for(3 * SECOND_US)
    hub.send(hosts[0], hosts[1].identity, b"through")
    world.run_for(SECOND_US)
    assert [blob for _, _, blob in heard[1]] == [b"through"]


def test_a_hub_that_cannot_tell_who_sends_names_nobody() -> None:
    world, hub, hosts, heard = a_hub(names_sender=False)
    send_many(world, hub, hosts, 1)
    assert heard[1][0][1] is None


def test_a_lying_hub_names_others_alters_candidates_and_repeats_itself() -> None:
    world, hub, hosts, heard = a_hub(wrong_sender=0.5, altered_candidates=0.5, replay=0.2)
    blob = b"\x0a\x07candidate:1 0 udp 2130706431 192.168.1.10 50000 typ host\x12"
    for _ in range(200):
        hub.send(hosts[0], hosts[1].identity, blob)
        world.run_for(10_000)
    hub.send(hosts[2], hosts[0].identity, blob)
    world.run_for(60 * SECOND_US)
    assert {sender for _, sender, _ in heard[1]} == {"str:host-0", "str:host-1", "str:host-2", "str:somebody", None}
    altered = [got for _, _, got in heard[1] if got != blob]
    assert 60 < len(altered) < 140
    assert all(len(got) == len(blob) and got.endswith(b" typ host\x12") for got in altered)
    assert len(heard[1]) > 220
    assert hub.counts.replayed > 20


def test_candidates_of_both_families_are_altered_without_a_change_of_length() -> None:
    rng = World("x", make_endpoint=make_rendezvous(ServerList([], []))).seeded("alter")
    for blob in (b"candidate:1 0 udp 5 2001:db8:1::a 50000 typ srflx", b"candidate:77 0 udp 5 1.2.3.4 9 typ relay x y"):
        altered = {alter_candidates(blob, rng) for _ in range(20)}
        assert all(len(one) == len(blob) for one in altered)
        assert len(altered) > 5
    assert alter_candidates(b"no candidate 1.2.3.4", rng) == b"no candidate 1.2.3.4"


def test_signals_wait_for_a_host_that_stands_still_and_not_for_one_that_crashed() -> None:
    world, hub, hosts, heard = a_hub()
    hosts[1].pause(5 * SECOND_US)
    hosts[2].crash()
    for to in (hosts[1], hosts[2]):
        hub.send(hosts[0], to.identity, b"x")
        hub.send(hosts[0], to.identity, b"y")
    world.run_for(4 * SECOND_US)
    assert heard[1] == []
    world.run_for(2 * SECOND_US)
    assert [blob for _, _, blob in heard[1]] == [b"x", b"y"]
    assert heard[2] == []


def test_signals_to_nobody_are_lost() -> None:
    world, hub, hosts, _ = a_hub()
    hub.send(hosts[0], Identity.string("nobody"), b"x")
    world.run_for(SECOND_US)
    assert (hub.counts.lost, hub.counts.delivered) == (1, 0)


def test_the_same_seed_gives_the_same_fate() -> None:
    def fate() -> Heard:
        world, hub, hosts, heard = a_hub(loss=0.3, duplicate=0.2, jitter_us=SECOND_US)
        send_many(world, hub, hosts, 50)
        return heard[1]

    assert fate() == fate()
