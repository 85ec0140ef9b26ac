from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from peergram.config import INTERFACES_POLL_US, INTERFACES_SETTLE_US
from peergram.drivers import interfaces
from peergram.drivers.interfaces import InterfaceWatch, default_gateways, list_interfaces
from peergram.drivers.pump import Pump
from peergram.drivers.system import monotonic_us
from peergram.io_requests import InterfaceAddress, WatchInterfaces
from peergram.timing import NEVER

from .fake_endpoint import FakeEndpoint
from .rigs import MakeRig, quiet_for

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of changes by netlink and of routes in /proc")
LOOPBACK = InterfaceAddress("127.0.0.1", 8, "lo", True)
ETHERNET = InterfaceAddress("192.0.2.7", 24, "eth0", False, "192.0.2.1")
WIFI = InterfaceAddress("198.51.100.7", 24, "wlan0", False)


def test_the_addresses_are_told_at_once_and_not_again_without_a_change(rig: MakeRig) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    made.call(lambda _: endpoint.ask(WatchInterfaces(True)))
    assert made.until(lambda: endpoint.interfaces)
    assert any(each.address == "127.0.0.1" and each.is_loopback and each.prefix_bits == 8 for each in endpoint.interfaces[0])
    assert quiet_for(lambda: len(endpoint.interfaces) == 1, 0.05)


def test_nothing_is_waited_for_before_it_is_asked_for_and_after() -> None:
    endpoint = FakeEndpoint()
    pump = Pump(endpoint)
    pump.drain(monotonic_us())
    sockets = len(pump.watched)
    endpoint.ask(WatchInterfaces(True))
    pump.drain(monotonic_us())
    endpoint.ask(WatchInterfaces(False))
    pump.drain(monotonic_us())
    assert (sockets, len(pump.watched), pump.wake_at_us()) == (1, 1, NEVER)
    pump.abandon()


class Machine:
    """What its addresses are is up to the test."""

    def __init__(self, *addresses: InterfaceAddress) -> None:
        self.addresses = list(addresses)
        self.looks = 0
        self.is_silent = False
        self.told: list[list[InterfaceAddress]] = []

    def list_them(self) -> list[InterfaceAddress]:
        self.looks += 1
        if self.is_silent:
            raise OSError("no answer")
        return list(self.addresses)

    def watch(self, *, with_signs: bool) -> InterfaceWatch:
        return InterfaceWatch(lambda found, _: self.told.append(found), 0, list_them=self.list_them, with_signs=with_signs)


def test_without_signs_the_list_is_looked_at_every_two_seconds_and_told_when_it_differs() -> None:
    machine = Machine(LOOPBACK)
    watch = machine.watch(with_signs=False)
    now_us = 0
    for _ in range(3):
        watch.handle_due(now_us)
        now_us = watch.due_us
    assert (now_us, machine.looks, machine.told) == (3 * INTERFACES_POLL_US, 3, [[LOOPBACK]])
    watch.handle_due(now_us - 1)
    assert machine.looks == 3
    machine.addresses = [WIFI, LOOPBACK]
    watch.handle_due(now_us)
    machine.addresses = [LOOPBACK, WIFI]
    watch.handle_due(watch.due_us)
    assert machine.told == [[LOOPBACK], [WIFI, LOOPBACK]]


def test_a_system_that_does_not_tell_leaves_things_as_they_were_and_is_asked_again() -> None:
    machine = Machine(LOOPBACK)
    machine.is_silent = True
    watch = machine.watch(with_signs=False)
    watch.handle_due(0)
    assert machine.told == [[]]
    machine.is_silent = False
    watch.handle_due(watch.due_us)
    machine.is_silent = True
    watch.handle_due(watch.due_us)
    assert machine.told == [[], [LOOPBACK]]
    assert watch.due_us == 3 * INTERFACES_POLL_US


@LINUX
def test_signs_are_gathered_for_a_moment_before_one_look() -> None:
    machine = Machine(LOOPBACK)
    watch = machine.watch(with_signs=True)
    watch.handle_due(0)
    assert watch.due_us == NEVER
    assert not watch.handle_sign(0)
    watch._signs.close()  # type: ignore[union-attr]
    # A closed descriptor errs as a full one does: something was missed.
    for now_us in (1_000, 2_000, 90_000):
        watch.handle_sign(now_us)
    assert watch.due_us == 1_000 + INTERFACES_SETTLE_US
    machine.addresses = [LOOPBACK, ETHERNET]
    watch.handle_due(watch.due_us)
    assert (machine.looks, machine.told[-1]) == (2, [LOOPBACK, ETHERNET])


@LINUX
def test_default_gateways_of_both_families_by_the_smallest_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    rows = [
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0",
        "eth0\t00000000\t0201A8C0\t0003\t0\t0\t50\t00000000\t0\t0\t0",
        "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0",
        "wlan0\t0000000A\t0101000A\t0003\t0\t0\t0\t000000FF\t0\t0\t0",
        "broken",
    ]
    if sys.byteorder == "little":
        (tmp_path / "route").write_text(header + "\n".join(rows) + "\n")
    zero = "0" * 32
    rows = [
        f"{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0",
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo",
        f"20010db8{zero[8:]} 20 {zero} 00 fe800000000000000000000000000002 00000001 00000001 00000000 00000003    wlan0",
    ]
    (tmp_path / "ipv6_route").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(interfaces, "_PROC", tmp_path)
    assert default_gateways() == {("eth0", 4): "192.168.1.2", ("eth0", 6): "fe80::1%eth0"}


@LINUX
def test_addresses_that_cannot_be_bound_yet_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        "00000000000000000000000000000001 01 80 10 40       lo",
        "20010db8000000000000000000000001 02 40 00 80     eth0",
        "20010db8000000000000000000000002 02 40 00 08     eth0",
        "20010db8000000000000000000000003 02 40 00 44     eth0",
        "fe800000000000000000000000000001 02 40 20 c0     eth0",
    ]
    (tmp_path / "if_inet6").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(interfaces, "_PROC", tmp_path)
    assert interfaces._unusable_hosts() == {"::1", "2001:db8::2", "fe80::1%eth0"}
    assert "::1" not in {each.address for each in list_interfaces()}


CHANGES = """
import json, subprocess, sys
from peergram.drivers.system import monotonic_us
from peergram.io_requests import WatchInterfaces
from tests.drivers.fake_endpoint import FakeEndpoint, until
from tests.drivers.rigs import RIGS

def ip(text):
    subprocess.run(["ip", *text.split()], check=True)

def latest():
    return sorted((each.address, each.prefix_bits, each.interface, each.gateway) for each in endpoint.interfaces[-1])

def after(*texts):
    count = len(endpoint.interfaces)
    # In one process: between two, more time may pass than a burst takes.
    subprocess.run(["ip", "-batch", "-"], input="\\n".join(texts), text=True, check=True)
    began_us = monotonic_us()
    assert rig.until(lambda: len(endpoint.interfaces) > count), texts
    steps.append([latest(), len(endpoint.interfaces) - count, monotonic_us() - began_us])

steps = []
ip("link set lo up")
ip("link add left type veth peer name right")
endpoint = FakeEndpoint(bind=None)
rig = RIGS[sys.argv[1]](endpoint)
rig.call(lambda _: endpoint.ask(WatchInterfaces(True)))
assert rig.until(lambda: endpoint.interfaces)
after("addr add 10.1.0.1/24 dev left", "link set left up", "link set right up", "route add default via 10.1.0.254")
after("addr add 2001:db8::7/64 dev left nodad")
after("link set left down")
after("link set left up")
after("link del left")
rig.close()
assert endpoint.broken_promises == []
print(json.dumps(steps))
"""


@LINUX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.skipif(not (shutil.which("unshare") and shutil.which("ip")), reason="needs the tools unshare and ip")
@pytest.mark.parametrize("kind", ["thread", "asyncio"])
def test_changes_are_told_soon_and_once_for_a_burst(kind: str) -> None:
    began_s = time.monotonic()
    ran = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", CHANGES, kind], capture_output=True, text=True, timeout=60, check=False
    )
    if "Operation not permitted" in ran.stderr:
        pytest.skip("this machine allows no network namespaces")
    assert ran.returncode == 0, ran.stderr
    assert time.monotonic() - began_s < 30
    steps = json.loads(ran.stdout)
    lists = [[tuple(each) for each in step[0] if not each[0].startswith(("fe80", "127.", "::1"))] for step in steps]
    four, six = ("10.1.0.1", 24, "left", "10.1.0.254"), ("2001:db8::7", 64, "left", None)
    assert lists[0] == [four]
    assert lists[1] == [four, six]
    assert lists[2] == []
    # Switching an interface off takes its routes and IPv6 addresses away for good.
    assert ("10.1.0.1", 24, "left", None) in lists[3]
    assert lists[4] == []
    assert max(step[2] for step in steps) < 1_500_000
