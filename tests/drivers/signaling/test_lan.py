"""LAN signaling with real sockets: on loopback here, and in namespaces whose only interface is `lo`."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from peergram.config import LAN_INTERFACES_MAX
from peergram.drivers.signaling.lan import LanSignaling
from peergram.drivers.signaling.lan_sockets import LanInterface, is_near, lan_interfaces
from peergram.errors import UsageError
from peergram.identity import Identity
from tests.threats.world import SOAK

from .parties import Inbox, free_udp_port, party, wait_until

ROOT = Path(__file__).resolve().parents[3]
ALICE, BOB = Identity.of("alice"), Identity.of("bob")


def loopback_only() -> list[LanInterface]:
    return [each for each in lan_interfaces() if each.address.is_loopback]


Start = Callable[[str, Inbox], LanSignaling]


@pytest.fixture
def start() -> Iterator[Start]:
    """Services on one port of their own, so that tests running at the same time do not hear each other."""
    port = free_udp_port()
    services: list[LanSignaling] = []

    def start(name: str, inbox: Inbox) -> LanSignaling:
        services.append(LanSignaling(port=port, interfaces=loopback_only))
        services[-1].start(party(name), inbox)
        return services[-1]

    yield start
    for each in services:
        each.close()


def test_two_programs_hear_each_other_without_any_configuration(start: Start) -> None:
    at_alice, at_bob = Inbox(), Inbox()
    alice, bob = start("alice", at_alice), start("bob", at_bob)
    alice.send(BOB, b"hello")
    assert at_bob.next() == (ALICE, b"hello")
    bob.send(ALICE, b"hello yourself")
    assert at_alice.next() == (BOB, b"hello yourself")
    assert "lo" in alice.status


def test_a_large_signal_arrives_whole(start: Start) -> None:
    at_bob = Inbox()
    alice, _ = start("alice", Inbox()), start("bob", at_bob)
    alice.send(BOB, bytes(range(256)) * 32)
    assert at_bob.next() == (ALICE, bytes(range(256)) * 32)


def test_a_third_program_hears_nothing_and_nobody_hears_twice(start: Start) -> None:
    at_alice, at_bob, at_carol = Inbox(), Inbox(), Inbox()
    alice, bob, carol = start("alice", at_alice), start("bob", at_bob), start("carol", at_carol)
    for number in range(5):
        alice.send(BOB, b"to bob %d" % number)
        assert at_bob.next() == (ALICE, b"to bob %d" % number)
        bob.send(ALICE, b"to alice %d" % number)
        assert at_alice.next() == (BOB, b"to alice %d" % number)
    carol.send(ALICE, b"done")
    assert at_alice.next()[1] == b"done"
    assert at_carol.all() == []
    assert at_alice.all() == at_bob.all() == []
    wait_until(lambda: carol.dropped.get("not for us", 0) >= 2)


def test_a_program_that_starts_again_is_found_again(start: Start) -> None:
    at_alice, at_bob = Inbox(), Inbox()
    alice, bob = start("alice", at_alice), start("bob", at_bob)
    bob.send(ALICE, b"hello")
    at_alice.next()
    bob.close()
    again = Inbox()
    start("bob", again)
    alice.send(BOB, b"are you there")
    assert again.next() == (ALICE, b"are you there")


def test_what_the_program_does_in_deliver_harms_nothing(start: Start) -> None:
    at_alice, at_bob = Inbox(), Inbox()
    answered = threading.Event()

    def answer(sender: Identity | None, signal: bytes) -> None:
        at_bob(sender, signal)
        bob.send(ALICE, b"from inside")
        answered.set()
        raise RuntimeError("the program's own mistake")

    alice = start("alice", at_alice)
    bob = start("bob", answer)  # type: ignore[arg-type]
    for _ in range(2):
        alice.send(BOB, b"hello")
        assert at_bob.next() == (ALICE, b"hello")
        assert at_alice.next() == (BOB, b"from inside")


def test_closing_from_inside_deliver_works(start: Start) -> None:
    closed = threading.Event()

    def close(sender: Identity | None, signal: bytes) -> None:
        bob.close()
        closed.set()

    alice = start("alice", Inbox())
    bob = start("bob", close)  # type: ignore[arg-type]
    alice.send(BOB, b"hello")
    assert closed.wait(10)
    assert bob.status == "Local network: closed."


def test_closed_is_closed_at_once_and_for_good(start: Start) -> None:
    at_bob = Inbox()
    alice, bob = start("alice", Inbox()), start("bob", at_bob)
    begin_s = time.monotonic()
    bob.close()
    bob.close()
    assert time.monotonic() - begin_s < 0.5
    alice.send(BOB, b"hello")
    bob.send(ALICE, b"hello")
    alice.close()
    alice.send(BOB, b"hello")
    assert at_bob.all() == []
    with pytest.raises(UsageError):
        bob.start(party("bob"), at_bob)


def test_no_descriptor_and_no_thread_is_left(start: Start) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    start("warm up", Inbox()).close()
    threads, before = threading.active_count(), descriptors()
    for _ in range(5):
        service = start("bob", Inbox())
        service.close()
    assert threading.active_count() == threads
    assert descriptors() == before


def test_a_machine_without_interfaces_is_no_error_and_the_status_says_so() -> None:
    service = LanSignaling(port=free_udp_port(), interfaces=list)
    service.start(party("alice"), Inbox())
    service.send(BOB, b"hello")
    assert service.status == "Local network: no interface of this machine carries multicast."
    assert service.dropped == {"sent: no interface took it": 1}
    service.close()


def test_interfaces_that_come_and_go_are_followed() -> None:
    port, at_bob = free_udp_port(), Inbox()
    interfaces: list[LanInterface] = []
    alice = LanSignaling(port=port, interfaces=loopback_only)
    bob = LanSignaling(port=port, interfaces=lambda: list(interfaces), look_interval_us=20_000)
    alice.start(party("alice"), Inbox())
    bob.start(party("bob"), at_bob)
    interfaces += loopback_only()
    wait_until(lambda: "lo" in bob.status)
    alice.send(BOB, b"now you hear me")
    assert at_bob.next()[1] == b"now you hear me"
    interfaces.clear()
    wait_until(lambda: "no interface" in bob.status)
    alice.send(BOB, b"and now you do not")
    time.sleep(0.05)
    assert at_bob.all() == []
    alice.close()
    bob.close()


def test_only_who_is_near_is_heard() -> None:
    interfaces = [LanInterface("eth0", 2, ip_interface("192.0.2.7/24")), LanInterface("eth0", 2, ip_interface("2001:db8::7/64"))]
    near = ["192.0.2.99", "127.0.0.1", "::1", "169.254.3.4", "fe80::1%eth0", "2001:db8::99", "::ffff:192.0.2.9"]
    far = ["198.51.100.1", "2001:db9::1", "10.0.0.1", "::ffff:198.51.100.1"]
    assert [host for host in near + far if is_near(host, interfaces)] == near


def test_an_idle_service_sleeps(start: Start) -> None:
    service = start("alice", Inbox())
    time.sleep(0.05)
    begin_s = time.thread_time()
    ticks_before = thread_ticks("peergram-lan")
    time.sleep(0.5)
    assert thread_ticks("peergram-lan") - ticks_before <= 1
    assert time.thread_time() - begin_s < 0.1
    service.close()


def thread_ticks(name: str) -> int:
    """Processor time of our threads of this name, in hundredths of a second."""
    native = [thread.native_id for thread in threading.enumerate() if thread.name == name]
    ticks = 0
    for each in native:
        fields = Path(f"/proc/self/task/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks


ECHO = """
import sys, time
from peergram.drivers.signaling.lan import LanSignaling
from peergram.identity import Identity
from tests.drivers.signaling.parties import party

me, port = sys.argv[1], int(sys.argv[2])
service = LanSignaling(port=port)
service.start(party(me), lambda sender, signal: service.send(sender, signal))
print("ready", flush=True)
sys.stdin.read()
service.close()
"""
ASK = """
import sys, time
from queue import SimpleQueue
from peergram.drivers.signaling.lan import LanSignaling
from peergram.identity import Identity
from tests.drivers.signaling.parties import party

port, count, pause_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
answers = SimpleQueue()
service = LanSignaling(port=port)
service.start(party("alice"), lambda sender, signal: answers.put((time.perf_counter(), signal)))
for number in range(count):
    begin_s = time.perf_counter()
    service.send(Identity.of("bob"), b"%d" % number)
    came_s, signal = answers.get(timeout=5)
    assert signal == b"%d" % number, signal
    print(f"{(came_s - begin_s) * 1e6:.0f}", flush=True)
    time.sleep(pause_s)
service.close()
"""


def round_trips_us(port: int, count: int, pause_s: float) -> list[int]:
    """Of signals between two processes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    python = [sys.executable, "-c"]
    echo = subprocess.Popen(
        [*python, ECHO, "bob", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    assert echo.stdin is not None
    assert echo.stdout is not None
    with echo.stdin, echo.stdout:
        assert echo.stdout.readline() == "ready\n"
        asked = subprocess.run(
            [*python, ASK, str(port), str(count), str(pause_s)],
            capture_output=True, text=True, timeout=60, env=environment, cwd=ROOT, check=False,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stderr
    assert echo.wait(10) == 0
    return [int(line) for line in asked.stdout.split()]


def needs_namespaces() -> None:
    """Skips where a program may not make itself a network of its own."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip")
    made = subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("network namespaces are not allowed here")


def in_namespace(commands: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Shell commands in a network of their own, in which nothing is up yet; `$1` and so on are the arguments."""
    needs_namespaces()
    script = f"set -e; export PYTHONPATH={ROOT}; cd {ROOT}; python={sys.executable}\n{commands}"
    return subprocess.run(
        ["unshare", "-rn", "bash", "-c", script, "bash", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


EXCHANGE = """
mkfifo "$1/hold" && exec 7<>"$1/hold"
$python -c "$2" bob 24717 <&7 >"$1/echo" &
trap "kill %1" EXIT
until grep -q ready "$1/echo"; do sleep 0.05; done
$python -c "$3" 24717 5 0.15
"""


def test_it_works_where_lo_is_the_only_interface(tmp_path: Path) -> None:
    """Two processes, at the port and group of the library."""
    alone = 'if ip -o link | grep -v LOOPBACK | grep -q "state UP"; then exit 8; fi'
    ran = in_namespace(f"ip link set lo up\n{alone}\n{EXCHANGE}", str(tmp_path), ECHO, ASK)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) == 5


def test_ipv6_alone_is_enough(tmp_path: Path) -> None:
    network = """
ip link set lo up
ip addr del 127.0.0.1/8 dev lo
ip link add one type veth peer name two
ip addr add fd00::1/64 dev one nodad
ip link set one up
ip link set two up
if ip -4 -o addr | grep -q .; then exit 8; fi
"""
    ran = in_namespace(network + EXCHANGE, str(tmp_path), ECHO, ASK)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) == 5


def test_a_new_interface_is_noticed_at_once() -> None:
    look = """
import subprocess, time
from peergram.drivers.signaling.lan import LanSignaling
from tests.drivers.signaling.parties import Inbox, party, wait_until

service = LanSignaling()
service.start(party("alice"), Inbox())
assert service.status.endswith(" on lo."), service.status
for command in ("link add one type veth peer name two", "addr add 10.0.0.1/24 dev one", "link set one up"):
    subprocess.run(["ip", *command.split()], check=True)
wait_until(lambda: "lo, one" in service.status, 2.0)
subprocess.run(["ip", "link", "del", "one"], check=True)
wait_until(lambda: service.status.endswith(" on lo."), 2.0)
service.close()
"""
    ran = in_namespace('ip link set lo up\n$python -c "$1"', look)
    assert ran.returncode == 0, ran.stderr


def test_of_very_many_interfaces_some_are_used_loopback_first() -> None:
    look = """
from peergram.drivers.signaling.lan import LanSignaling
from tests.drivers.signaling.parties import Inbox, party

service = LanSignaling()
service.start(party("alice"), Inbox())
print(service.status)
service.close()
"""
    many = """
for i in $(seq 15); do
    ip link add a$i type veth peer name b$i
    for each in a$i b$i; do ip link set $each up; ip addr add 10.0.$i.${#each}/24 dev $each; done
done
"""
    ran = in_namespace(f'{many}\nip link set lo up\n$python -c "$1"', look)
    assert ran.returncode == 0, ran.stderr
    assert f" and {LAN_INTERFACES_MAX - 4} more" in ran.stdout


@pytest.mark.skipif(not SOAK, reason="measures time: set PEERGRAM_SOAK=1")
def test_a_signal_takes_less_than_two_milliseconds_to_another_process() -> None:
    rtts = round_trips_us(free_udp_port(), 100, 0.12)
    one_way = sorted(each / 2 for each in rtts[1:])
    print(f"one way: median {statistics.median(one_way):.0f} us, p95 {one_way[int(len(one_way) * 0.95)]:.0f} us")
    assert statistics.median(one_way) < 2_000
