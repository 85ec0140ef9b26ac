"""A port of a real router: miniupnpd between two network namespaces, asked by PCP, and by UPnP where it speaks nothing else.

Skipped without root, `ip`, `nft` or `miniupnpd`. The outside has an address that is not reserved for documentation, for the
router maps no ports to such; nothing leaves the namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MISSING = [tool for tool in ("ip", "nft", "miniupnpd", "sysctl") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

INSIDE, ROUTER_IN, ROUTER_OUT, OUTSIDE = "192.168.77.5", "192.168.77.1", "11.22.33.1", "11.22.33.254"
RULES = """
table inet filter {
  chain forward { type filter hook forward priority 0; policy drop; iifname "lan" accept; jump miniupnpd; }
  chain miniupnpd { }
  chain prerouting { type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority 100; policy accept; jump postrouting_miniupnpd; }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
"""
CONFIGURATION = """
ext_ifname=wan
listening_ip=lan
port=5555
enable_natpmp={natpmp}
enable_upnp=yes
secure_mode=yes
uuid=9d496a1c-dabe-4f88-ba0a-2d5703ead8be
allow 1024-65535 192.168.77.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
Start = Callable[[str], None]


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def namespace(name: str) -> str:
    return f"pg{os.getpid()}{name}"


@pytest.fixture
def start_router(tmp_path: Path) -> Iterator[Start]:
    """A client, a router and somebody outside; call it to start the router's service."""
    client, router, outside = (namespace(name) for name in ("c", "r", "o"))
    daemons: list[subprocess.Popen[bytes]] = []
    for each in (client, router, outside):
        run("ip", "netns", "add", each)
        run("ip", "-n", each, "link", "set", "lo", "up")
    try:
        for ours, theirs, place in (("lan", "eth0", client), ("wan", "eth0", outside)):
            run("ip", "link", "add", ours, "netns", router, "type", "veth", "peer", "name", theirs, "netns", place)
        for place, link, address in (
            (client, "eth0", INSIDE),
            (router, "lan", ROUTER_IN),
            (router, "wan", ROUTER_OUT),
            (outside, "eth0", OUTSIDE),
        ):
            run("ip", "-n", place, "addr", "add", f"{address}/24", "dev", link)
            run("ip", "-n", place, "link", "set", link, "up")
        run("ip", "-n", client, "route", "add", "default", "via", ROUTER_IN)
        run("ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        run("ip", "netns", "exec", router, "nft", "-f", "-", text=RULES)

        def start(natpmp: str) -> None:
            configuration = tmp_path / "miniupnpd.conf"
            configuration.write_text(CONFIGURATION.format(natpmp=natpmp))
            command = ["ip", "netns", "exec", router, "miniupnpd", "-d", "-f", str(configuration), "-P", str(tmp_path / "pid")]
            daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            daemons.append(daemon)
            assert daemon.stderr is not None
            while b"HTTP listening" not in (line := daemon.stderr.readline()):
                assert line, "miniupnpd did not start"

        yield start
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.communicate(timeout=10)
        for each in (client, router, outside):
            run("ip", "netns", "del", each)


@pytest.mark.parametrize("natpmp", ["yes", "no"], ids=["PCP", "UPnP"])
def test_a_mapped_port_leads_to_us_until_it_is_given_back(start_router: Start, natpmp: str) -> None:
    start_router(natpmp)
    command = ["ip", "netns", "exec", namespace("c"), sys.executable, "-m", "tests.routes.mapping_client", INSIDE, ROUTER_IN]
    root = Path(__file__).resolve().parent.parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        mapped = process.stdout.readline().split()
        assert mapped[:1] == [ROUTER_OUT], process.stderr.read()
        assert mapped[1] in forwarded_ports()
        say = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', ('{ROUTER_OUT}', {mapped[1]}))"
        run("ip", "netns", "exec", namespace("o"), sys.executable, "-c", say)
        assert process.stdout.readline() == "hello\n"
        assert process.stdout.readline() == "released\n"
        assert forwarded_ports() == ""


def forwarded_ports() -> str:
    """The rules that lead in from outside."""
    listed = run("ip", "netns", "exec", namespace("r"), "nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd")
    return "\n".join(line for line in listed.splitlines() if "dnat" in line)
