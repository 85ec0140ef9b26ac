"""Fleets of real processes on loopback: nodes of `peergram serve`, NATS servers, real peers, and things that die (S11, R10)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median

import pytest

from peergram import Messages, SendFlags, config
from peergram.cli.serve_map import read_relays, share_relays
from peergram.crypto.authority import issue_certificate
from peergram.crypto.keys import SigningKey
from peergram.drivers.authority_files import make_authority
from peergram.drivers.relay_files import load_relay_map
from peergram.drivers.signaling.websocket import WebSocketSignaling
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.servers.fleet import Fleet
from peergram.servers.fleet_core import FleetSettings, Load, subject_of
from peergram.servers.fleet_names import LeasedNames
from peergram.servers.fleet_store import NameStore
from peergram.servers.relay_access import RelayAccess
from peergram.servers.relay_desk import RelayDesk
from peergram.servers.relay_run import RelaySettings
from peergram.servers.run import ServerSettings, SignalingServer
from peergram.servers.signaling_core import Arrived, Claimed, ClaimName, Elsewhere, Left, RenewName, SignalingCore
from peergram.signaling.service import LocalParty
from peergram.wire.certificates import encode_signed_certificate
from tests.cli.commands import run_command, running
from tests.drivers.signaling.parties import Inbox, key_of, party, wait_until
from tests.threats.world import SOAK, full_or

from .brokers import Broker, brokers, needs_nats
from .fleet_processes import NodeProcess, fleet
from .mesh import Mesh
from .processes import allow_files, python, said_by
from .talk import Talk

pytestmark = needs_nats
ROOT = SigningKey(bytes(32))
KILLS = full_or(14, 2)


class Guest:
    """A client of one or several nodes."""

    def __init__(self, url: str, name: str, key: SigningKey | None = None) -> None:
        self.inbox = Inbox()
        self.service = WebSocketSignaling(url)
        self.service.start(party(name, key), self.inbox)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.service.close()

    @property
    def status(self) -> str:
        return self.service.status

    def wait_in(self, timeout_s: float = 10) -> Guest:
        wait_until(lambda: self.service.is_welcome, timeout_s)
        return self

    def send(self, name: str, blob: bytes) -> None:
        self.service.send(Identity.of(name), blob)


@pytest.fixture
def one_broker(tmp_path: Path) -> Iterator[Broker]:
    with brokers(tmp_path) as [broker]:
        yield broker


def test_peers_at_two_nodes_call_each_other_and_a_name_is_one_keys_at_both(one_broker: Broker) -> None:
    with fleet("ab", [one_broker]) as (a, b):
        talk = Talk(a.url, pause_s=0.01)
        elsewhere = WebSocketSignaling(b.url)
        carol = Messages("carol", signaling=elsewhere, state=False)
        carol.on_session_request = lambda request: carol.accept_session_with_user(request.identity)
        wait_until(lambda: elsewhere.is_welcome)
        talk.alice.send_message_to_user("carol", b"across", SendFlags.RELIABLE)

        def has_arrived() -> bool:
            carol.run_callbacks()
            return [message.payload for message in carol.receive_messages_on_channel(0, 10)] == [b"across"]

        wait_until(has_arrived)
        talk.end()
        with Guest(b.url, "carol", key_of("mallory")) as thief:
            wait_until(lambda: "another key has this name" in thief.status)
        carol.close()
        status, text = a.page("/healthz")
        assert (status, text) == (200, "ok\nbus connected\nnames reachable\n")
        wait_until(lambda: a.metric("fleet_nodes") == 2)
        assert b.metric("signals_from_elsewhere_total") > 0


def test_nodes_that_relay_hear_of_each_other_and_of_what_is_relayed(one_broker: Broker) -> None:
    async def meet() -> None:
        relay = RelaySettings(binds=(("127.0.0.1", 0),), access=RelayAccess(user=b"u", password=b"p"))
        nodes = [
            SignalingServer(
                ServerSettings(
                    binds=(("127.0.0.1", 0),),
                    relay=relay,
                    fleet=FleetSettings(urls=(one_broker.url,), node=name, keeps_names=False),
                )
            )
            for name in "ab"
        ]
        for node in nodes:
            await node.start()
        for node in nodes:
            assert node.fleet is not None
            while not node.fleet.core.nodes:
                await asyncio.sleep(0.01)
            assert "peergram_serve_fleet_nodes 2" in node.metrics()
        for node in nodes:
            await node.close()

    asyncio.run(asyncio.wait_for(meet(), 20))


def test_a_login_at_another_node_takes_over_and_the_first_client_stays_away(one_broker: Broker) -> None:
    with fleet("ab", [one_broker]) as (a, b), Guest(a.url, "alice") as first:
        first.wait_in()
        with Guest(b.url, "alice") as second, Guest(a.url, "bob") as bob:
            wait_until(lambda: "has logged in elsewhere" in first.status)
            second.wait_in()
            bob.wait_in().send("alice", b"for the second")
            assert second.inbox.next() == (Identity.of("bob"), b"for the second")
            assert first.inbox.all() == []


def test_while_the_only_broker_is_away_known_names_come_in_new_ones_wait_and_then_all_is_well_again(one_broker: Broker) -> None:
    with fleet("ab", [one_broker]) as (a, b), Guest(a.url, "alice") as alice, Guest(b.url, "bob") as bob:
        alice.wait_in()
        bob.wait_in()
        with Guest(a.url, "neighbour") as neighbour:
            neighbour.wait_in()
            one_broker.kill()
            wait_until(lambda: "bus lost" in a.page("/healthz")[1])
            # Here nobody needs the bus.
            alice.send("neighbour", b"next door")
            assert neighbour.inbox.next() == (Identity.of("alice"), b"next door")
        with Guest(b.url, "alice") as moved:
            moved.wait_in()
        with Guest(a.url, "newcomer") as newcomer:
            wait_until(lambda: "cannot be seen at the moment whose this name is" in newcomer.status)
            assert "names lost" in a.page("/healthz")[1]
            one_broker.start()
            newcomer.wait_in(20)
            wait_until(lambda: a.metric("bus_connected") == b.metric("bus_connected") == 1)
            newcomer.send("bob", b"across again")
            assert bob.inbox.next() == (Identity.of("newcomer"), b"across again")
            assert "names reachable" in a.page("/healthz")[1]


def test_a_broker_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    with brokers(tmp_path, 3, jetstream=False) as bus, fleet("a", bus, "--names", "off") as (a,):
        where = a.bus
        victim = next(broker for broker in bus if broker.url.endswith(where.rpartition(":")[2]))
        victim.pause()
        try:
            wait_until(lambda: a.metric("bus_lost_total") == 1 and a.metric("bus_connected") == 1, 10)
        finally:
            victim.resume()


def test_without_a_broker_a_node_says_so_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "FLEET_START_US", 500_000)

    async def start() -> None:
        settings = ServerSettings(binds=(("127.0.0.1", 0),), fleet=FleetSettings(urls=("nats://127.0.0.1:1",), node="a"))
        await SignalingServer(settings).start()

    begin_s = time.monotonic()
    with pytest.raises(UsageError, match="no NATS server can be used"):
        asyncio.run(start())
    assert time.monotonic() - begin_s < 3


def test_a_document_is_there_for_whoever_asks_later_and_one_that_is_no_good_is_told_to_the_operator(
    one_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async def share() -> None:
        nodes = [Fleet(FleetSettings(urls=(one_broker.url,), node=name, keeps_names=False), Desk()) for name in "ab"]
        for node in nodes:
            await node.start()
        nodes[0].share(b"a map", 1)
        while not nodes[1].core.document:
            await asyncio.sleep(0.01)
        took: list[bytes] = []
        nodes[1].watch_document(took.append)
        assert took == [b"a map"]

        def refuse(content: bytes) -> None:
            raise UsageError("pops[2].code: 'FRA!' is no code")

        nodes[1].watch_document(refuse)
        for node in nodes:
            await node.close()

    asyncio.run(asyncio.wait_for(share(), 20))
    assert "pops[2].code" in caplog.text


def test_of_relay_maps_the_file_that_was_written_last_counts_whenever_its_node_comes(one_broker: Broker, tmp_path: Path) -> None:
    files = {}
    for code, at_s in (("fra", 1_000), ("ams", 2_000)):
        files[code] = tmp_path / code
        pop = {"code": code, "name": code, "latitude": 0, "longitude": 0, "servers": ["turn:192.0.2.1"]}
        files[code].write_text(json.dumps({"version": 1, "pops": [pop]}))
        os.utime(files[code], (at_s, at_s))

    def node(code: str) -> SignalingServer:
        desk = RelayDesk(load_relay_map(files[code]), {}, wall_s=lambda: 0)
        fleet = FleetSettings(urls=(one_broker.url,), node=code, keeps_names=False)
        return SignalingServer(ServerSettings(binds=(("127.0.0.1", 0),), relays=desk, fleet=fleet))

    async def share() -> None:
        old, new = node("fra"), node("ams")
        await old.start()
        share_relays(old, files["fra"], None)
        await new.start()
        assert new.fleet is not None
        while not new.fleet.core.document:
            await asyncio.sleep(0.01)
        share_relays(new, files["ams"], None)
        while b"ams" not in old.desk.map_text:
            await asyncio.sleep(0.01)
        assert b"ams" in new.desk.map_text
        read_relays(old, files["fra"], None)()
        assert b"ams" in old.desk.map_text, "what is read again is still older"
        for each in (old, new):
            await each.close()

    asyncio.run(asyncio.wait_for(share(), 20))


class Desk:
    """What a server is to its node."""

    def __init__(self) -> None:
        self.core = SignalingCore(
            entropy=Random(1).randbytes, accepts_url=lambda url, local: True, now_us=0, is_in_fleet=True, leases=LeasedNames(100)
        )

    def drain_soon(self) -> None:
        """Nobody waits for it."""

    def load(self) -> Load:
        return Load()


def test_what_waits_for_the_bus_is_limited(one_broker: Broker) -> None:
    async def flood() -> None:
        node, listener = (Fleet(FleetSettings(urls=(one_broker.url,), node=name, keeps_names=False), Desk()) for name in "ab")
        await node.start()
        await listener.start()
        listener.handle_output(Arrived(Identity.of("bob"), bytes(32)))
        one_broker.kill()
        while node.is_connected or listener.is_connected:
            await asyncio.sleep(0.01)
        for size, most in ((8_000, config.FLEET_PENDING_BYTES_MAX // 8_000), (10, config.FLEET_QUEUE_MAX)):
            before = node.counters["dropped"]
            for _ in range(most + 100):
                node.handle_output(Elsewhere(Identity.of("alice"), b"", Identity.of("bob"), bytes(size), False))
            assert node.counters["dropped"] - before >= 100
        for number in range(1_000):
            listener.handle_output(Arrived(Identity.of(f"name {number}"), bytes(32)))
            listener.handle_output(Left(Identity.of(f"name {number}")))
        for name in ("carol", "dave"):
            listener.handle_output(Arrived(Identity.of(name), bytes(32)))
        listener.handle_output(Left(Identity.of("bob")))
        listener.handle_output(Arrived(Identity.of("bob"), bytes(32)))
        listener.handle_output(Left(Identity.of("dave")))
        assert list(listener.changes) == [subject_of(Identity.of("carol"))], "who has come and gone meanwhile costs nothing"
        one_broker.start()
        while not listener.core.counters["received"]:
            await asyncio.sleep(0.01)
        await node.close()
        await listener.close()

    asyncio.run(asyncio.wait_for(flood(), 20))


def test_names_that_are_due_are_written_again_a_few_at_a_time(one_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []

    async def renew_all() -> None:
        desk = Desk()
        node = Fleet(FleetSettings(urls=(one_broker.url,), node="a"), desk)
        await node.start()
        key = key_of("alice").public_bytes
        for _ in range(2):
            for number in range(3 * config.FLEET_RENEWALS_AT_ONCE):
                node.handle_output(RenewName(Identity.of(f"name {number}"), key, False))
        at_once: list[int] = []
        renew = NameStore.renew

        async def watched(store: NameStore, identity: Identity, public_key: bytes, is_proven: bool) -> Claimed:
            at_once.append(1)
            most.append(len(at_once))
            try:
                return await renew(store, identity, public_key, is_proven)
            finally:
                at_once.pop()

        monkeypatch.setattr(NameStore, "renew", watched)
        while node.counters["names_asked"] < 3 * config.FLEET_RENEWALS_AT_ONCE:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert node.counters["names_asked"] == 3 * config.FLEET_RENEWALS_AT_ONCE
        await node.close()

    asyncio.run(asyncio.wait_for(renew_all(), 20))
    assert max(most) == config.FLEET_RENEWALS_AT_ONCE


def test_a_login_is_answered_whatever_the_store_does(one_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def claim() -> None:
        desk = Desk()
        answered: list[tuple[int, Claimed | None]] = []
        monkeypatch.setattr(desk.core, "handle_claimed", lambda number, claimed, now_us: answered.append((number, claimed)))
        node = Fleet(FleetSettings(urls=(one_broker.url,), node="a"), desk)
        await node.start()

        async def fail(*_: object) -> Claimed:
            raise ValueError("an answer that is none")

        monkeypatch.setattr(NameStore, "claim", fail)
        monkeypatch.setattr(config, "FLEET_CLAIM_US", 300_000)
        node.handle_output(ClaimName(7, Identity.of("alice"), bytes(32), True))
        while not answered:
            await asyncio.sleep(0.01)
        assert answered == [(7, None)]
        await node.close()

    asyncio.run(asyncio.wait_for(claim(), 10))


def test_names_outlast_all_nodes(one_broker: Broker) -> None:
    with fleet("a", [one_broker]) as (a,), Guest(a.url, "alice") as alice:
        alice.wait_in()
    with fleet("b", [one_broker]) as (b,):
        assert b.metric("names") == 1
        with Guest(b.url, "alice", key_of("mallory")) as thief:
            wait_until(lambda: "another key has this name" in thief.status)


def test_the_bus_is_only_for_who_may_and_a_wrong_password_is_a_sentence(tmp_path: Path) -> None:
    config_text = (Path(__file__).resolve().parents[2] / "deploy" / "fleet" / "nats-server.conf").read_text()
    permissions = config_text[config_text.index("permissions") : config_text.index("}", config_text.index("permissions")) + 1]
    users = f"authorization {{ users: [{{ user: node, password: secret, {permissions} }}] }}"
    login = tmp_path / "login"
    with brokers(tmp_path, users=users) as [broker]:
        arguments = ("serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", "--nats", broker.url, "--nats-login", str(login))
        for content, mode, says in (
            ("node secret\n", 0o644, "may be read by others"),
            ("node\n", 0o600, "write one line, USER PASSWORD"),
            ("node wrong\n", 0o600, f"no NATS server can be used at {broker.url}"),
        ):
            login.write_text(content)
            login.chmod(mode)
            done = run_command(*arguments)
            assert done.returncode == 2
            assert says in " ".join(done.stderr.split()), done.stderr
        login.write_text("node secret\n")
        # What the file in `deploy` allows a node is enough for all that it does.
        with fleet("ab", [broker], "--nats-login", str(login)) as (a, b), Guest(a.url, "alice") as alice:
            alice.wait_in()
            with Guest(b.url, "bob") as bob:
                bob.wait_in().send("alice", b"across")
                assert alice.inbox.next() == (Identity.of("bob"), b"across")
            assert a.metric("bus_errors_total") == b.metric("bus_errors_total") == 0


def test_without_a_store_a_node_refuses_to_start_unless_told_how_to_decide(tmp_path: Path) -> None:
    with brokers(tmp_path, jetstream=False) as [broker]:
        arguments = ("serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", "--nats", broker.url)
        done = run_command(*arguments)
        assert done.returncode == 2
        assert "kept in NATS JetStream" in " ".join(done.stderr.split())
        assert "--authority, or --names off" in " ".join(done.stderr.split())
        with running(*arguments, "--names", "off") as command:
            command.wait_line("is forgotten when this server stops")


def certified_party(name: str, key: SigningKey) -> LocalParty:
    now_s = int(time.time())
    signed = issue_certificate(
        ROOT,
        subject_key=key.public_bytes,
        identity=Identity.of(name),
        app_ids=(0,),
        created_s=now_s - 60,
        expires_s=now_s + 3_600,
    )
    return replace(party(name, key), certificate=encode_signed_certificate(signed))


def test_under_an_authority_a_name_goes_over_to_another_key_that_it_certifies_at_whatever_node(tmp_path: Path) -> None:
    make_authority(tmp_path / "club", ROOT)
    with brokers(tmp_path, jetstream=False) as [broker], fleet("ab", [broker], "--authority", str(tmp_path / "club")) as (a, b):
        first = WebSocketSignaling(a.url)
        first.start(certified_party("alice", key_of("alice")), Inbox())
        wait_until(lambda: first.is_welcome)
        second = WebSocketSignaling(b.url)
        second.start(certified_party("alice", key_of("alice's new key")), Inbox())
        wait_until(lambda: "has logged in elsewhere" in first.status)
        assert second.is_welcome
        first.close()
        second.close()


# --- Ending and reading again ---


def test_a_node_that_is_told_to_end_sends_its_clients_to_another_one(one_broker: Broker) -> None:
    with fleet("ab", [one_broker]) as (a, b), Guest(f"{a.url},{b.url}", "alice") as alice, Guest(b.url, "bob") as bob:
        bob.wait_in()
        alice.wait_in()
        first = a if alice.service.url.port == a.port else b
        if first is a:
            assert a.stop() < 5
        else:
            assert b.stop() < 5
            b.start()
        wait_until(lambda: alice.service.is_welcome and alice.service.url.port != first.port)
        bob.wait_in(15)
        bob.send("alice", b"found you")
        assert alice.inbox.next() == (Identity.of("bob"), b"found you")


def test_a_rolling_restart_of_three_nodes_costs_no_session_and_not_one_message(one_broker: Broker) -> None:
    """R10, as far as nodes go: all are restarted in turn, under 120 sessions in the full form."""
    with fleet("abc", [one_broker]) as nodes:
        mesh = Mesh(",".join(node.url for node in nodes), full_or(16, 5), pause_s=1.0 if SOAK else 0.2)
        mesh.wait_complete(3)
        took_s = []
        for node in nodes:
            took_s.append(node.stop())
            node.start()
            wait_until(lambda: all(each.is_welcome for each in mesh.services), 15)
        so_far = mesh.sent
        mesh.wait_complete(so_far + 2)
        mesh.end()
    print(f"{mesh.sessions} sessions, {mesh.sent * 2 * mesh.sessions} messages, none lost; stops took {took_s}")
    assert all(each < 10 for each in took_s)


def test_a_second_word_ends_it_at_once(one_broker: Broker) -> None:
    with fleet("a", [one_broker]) as (a,):
        names = [f"one of many {number}" for number in range(40)]
        guests = [Guest(a.url, name) for name in names]
        for guest in guests:
            guest.wait_in()
        process = a.process
        assert process is not None
        begin_s = time.monotonic()
        process.terminate()
        wait_until(lambda: a.page("/healthz") == (503, "draining\n") if process.poll() is None else True)
        if process.poll() is None:
            process.terminate()
        process.wait(10)
        assert time.monotonic() - begin_s < 3
        for guest in guests:
            guest.service.close()


# --- S11 ---


class Newcomers:
    """Again and again two peers whom the fleet knows come, one calls the other, and both go."""

    def __init__(self, urls: str) -> None:
        self.took_s: list[float] = []
        self._urls = urls
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        while not self._end.is_set():
            begin_s = time.monotonic()
            ann = Messages("ann", signaling=WebSocketSignaling(self._urls), state=False)
            ben = Messages("ben", signaling=WebSocketSignaling(self._urls), state=False)
            ben.on_session_request = lambda request, ben=ben: ben.accept_session_with_user(request.identity)
            ann.send_message_to_user("ben", b"hello", SendFlags.RELIABLE)
            came = False
            while not came and time.monotonic() - begin_s < 30:
                ben.wait(0.05)
                ben.run_callbacks()
                ann.run_callbacks()
                came = bool(ben.receive_messages_on_channel(0, 1))
            self.took_s.append(time.monotonic() - begin_s)
            ann.close()
            ben.close()
            self._end.wait(0.2)

    def end(self) -> None:
        self._end.set()
        self._thread.join(40)


def test_nodes_and_brokers_are_killed_in_turn_and_calls_go_on(tmp_path: Path) -> None:
    """S11: three nodes, three brokers, one of them killed every 20 s and started again 10 s later."""
    count, calls_per_s = full_or(2_000, 100), full_or(100, 40)
    rest_s, away_s = (10.0, 10.0) if SOAK else (2.0, 2.0)
    allow_files(3 * count + 500)
    with brokers(tmp_path, 3) as bus, fleet("abc", bus) as nodes:
        urls = ",".join(node.url for node in nodes)
        with python("-m", "tests.servers.callers", urls, str(count), "200", str(calls_per_s)) as callers:
            try:
                assert said_by(callers) == "ready"
                talks = [Talk(urls, (f"alice {n}", f"bob {n}")) for n in range(full_or(5, 2))]
                newcomers = Newcomers(urls)
                wait_until(lambda: all(len(talk.came) >= 10 for talk in talks))
                begin_s = time.monotonic()
                victims: list[tuple[float, str]] = []
                order: list[Broker | NodeProcess] = [each for pair in zip(bus, nodes, strict=True) for each in pair]
                for victim in itertools.islice(itertools.cycle(order), KILLS):
                    victims.append((time.monotonic() - begin_s, type(victim).__name__))
                    victim.kill()
                    time.sleep(away_s)
                    victim.start()
                    time.sleep(rest_s)
                newcomers.end()
                for talk in talks:
                    talk.end()
                assert callers.stdin is not None
                callers.stdin.write("end\n")
                callers.stdin.flush()
                told = json.loads(said_by(callers))
                unreadable = [node.metric("bus_unreadable_total") for node in nodes]
            finally:
                callers.kill()
    calls = sorted((float("inf") if took is None else took) for _, took in told["calls"])
    outages = sorted(end - begin for begin, end in told["outages"])
    in_time = sum(took <= 5 for took in calls) / len(calls)
    new_in_time = sum(took <= 5 for took in newcomers.took_s) / len(newcomers.took_s)
    gaps_ms = [round(talk.longest_gap_s * 1e3) for talk in talks]
    print(
        f"{count} clients, killed {victims}: {len(calls)} calls, median {median(calls) * 1e3:.1f} ms, 99 % in "
        f"{calls[len(calls) * 99 // 100]:.2f} s, longest {calls[-1]:.2f} s, {in_time:.2%} within 5 s; {len(outages)} "
        f"connections lost, median {median(outages):.2f} s, longest {outages[-1]:.2f} s; {len(newcomers.took_s)} new sessions, "
        f"longest {max(newcomers.took_s):.2f} s, {new_in_time:.2%} within 5 s; {sum(talk.sent for talk in talks)} messages in "
        f"{len(talks)} sessions, none lost, longest pauses {gaps_ms} ms"
    )
    assert in_time >= 0.99
    assert new_in_time >= 0.99
    # A call waits for whoever of the two is away longest, and for its own next repetition.
    assert calls[-1] <= outages[-1] + 2
    assert all(gap_ms < 1_000 for gap_ms in gaps_ms)
    assert unreadable == [0, 0, 0]


def test_a_node_that_was_given_no_map_tells_its_clients_of_the_one_that_another_has_and_makes_tickets(
    one_broker: Broker, tmp_path: Path
) -> None:
    """The map goes over the bus; secrets are a file at each node."""
    map_file, secrets = tmp_path / "map.json", tmp_path / "secrets"
    pop = {"code": "fra", "name": "Frankfurt", "latitude": 50, "longitude": 8, "servers": ["turn:127.0.0.1:9"]}
    map_file.write_text(json.dumps({"version": 1, "pops": [pop]}))
    secrets.write_text("fra a-long-secret\n")
    secrets.chmod(0o600)
    given = ["--nats", one_broker.url, "--turn", "off", "--relay-secrets", str(secrets)]
    a, b = NodeProcess("a", [*given, "--relay-map", str(map_file)]), NodeProcess("b", given)
    try:
        for node in (a, b):
            node.start()
        with Messages("alice", signaling=b.url, state=False) as alice:
            wait_until(lambda: [place.code for place in alice.relay_network.places] == ["fra"], 15)
            wait_until(lambda: tickets_of(alice) == ["fra"], 5)
            # A newer file at one node is what clients of the other one are told of.
            map_file.write_text(json.dumps({"version": 1, "pops": [pop, pop | {"code": "ams"}]}))
            assert a.process is not None
            a.process.send_signal(signal.SIGHUP)
            wait_until(lambda: [place.code for place in alice.relay_network.places] == ["fra", "ams"], 15)
            assert tickets_of(alice) == ["fra"]
            # Secrets are read again where there is no map, too.
            secrets.write_text("fra a-long-secret\nams another-secret\n")
            assert b.process is not None
            b.process.send_signal(signal.SIGHUP)
            wait_until(lambda: tickets_of(alice) == ["ams", "fra"], 15)
    finally:
        for node in (a, b):
            node.kill()


def tickets_of(client: Messages) -> list[str]:
    """The places it has tickets for."""
    return client.relay_network._look(lambda network, now_us: sorted(network._tickets), [])


def test_of_two_maps_the_file_written_last_counts_at_all_nodes_whoever_starts_or_reads_again(
    one_broker: Broker, tmp_path: Path
) -> None:
    nodes, pop = [], {"name": "x", "latitude": 50, "longitude": 8, "servers": ["turn:127.0.0.1:9"]}
    for name, code, written_s in (("a", "old", 1_000_000), ("b", "new", 2_000_000)):
        map_file = tmp_path / f"{name}.json"
        map_file.write_text(json.dumps({"version": 1, "pops": [pop | {"code": code}]}))
        os.utime(map_file, (written_s, written_s))
        nodes.append(NodeProcess(name, ["--nats", one_broker.url, "--turn", "off", "--relay-map", str(map_file)]))
    a, b = nodes
    try:
        a.start()
        with Messages("alice", signaling=a.url, state=False) as alice, Messages("bob", signaling=b.url, state=False) as bob:

            def have(*codes: str) -> bool:
                return all([place.code for place in each.relay_network.places] == list(codes) for each in (alice, bob))

            b.start()
            wait_until(lambda: have("new"), 20)
            assert a.process is not None
            assert a.process.stdout is not None
            a.process.send_signal(signal.SIGHUP)
            while '"reloaded"' not in (line := a.process.stdout.readline()):
                assert line
            with Messages("carol", signaling=a.url, state=False) as carol:
                wait_until(lambda: carol.relay_network.places)
                assert [place.code for place in carol.relay_network.places] == ["new"]
            b.kill()
            b.start()
            wait_until(lambda: have("new"), 20)
            os.utime(tmp_path / "a.json")
            a.process.send_signal(signal.SIGHUP)
            wait_until(lambda: have("old"), 20)
    finally:
        for node in nodes:
            node.kill()
