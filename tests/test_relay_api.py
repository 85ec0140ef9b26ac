"""The relay network as programs see it, over real loopback sockets: Messages, aio, and GodotSteam's names."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peergram import Availability, Messages, RelayNetworkChanged, UsageError, aio
from peergram.adapters.godot_steam import Steam
from peergram.drivers.signaling.in_process import InProcessHub, InProcessSignaling
from peergram.drivers.signaling.lan import LanSignaling
from peergram.wire.stun import Class, StunMessage, decode_stun, encode_stun

FUNCTIONS = """
checkPingDataUpToDate convertPingLocationToString estimatePingTimeBetweenTwoLocations estimatePingTimeFromLocalHost
getDirectPingToPOP getLocalPingLocation getPingToDataCenter getPOPCount getPOPList getRelayNetworkStatus initRelayNetworkAccess
parsePingLocationString
"""
FRA, AMS = 0x667261, 0x616D73


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def map_file(tmp_path: Path) -> Iterator[Path]:
    """A map of two places: one answers, on this machine, the other never."""
    answering, silent = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with answering, silent:
        for each in (answering, silent):
            each.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, source = answering.recvfrom(2_000)
                if not data:
                    return
                request = decode_stun(data)
                reply = StunMessage(request.method, Class.SUCCESS, request.transaction_id, xor_mapped_address=source)
                answering.sendto(encode_stun(reply), source)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ports = [each.getsockname()[1] for each in (answering, silent)]
        path = tmp_path / "relays.json"
        path.write_text(
            f'{{"version": 1, "pops": ['
            f'{{"code": "fra", "name": "Frankfurt", "latitude": 50, "longitude": 8, "servers": ["stun:127.0.0.1:{ports[0]}"]}},'
            f'{{"code": "ams", "name": "Amsterdam", "latitude": 52, "longitude": 5, "servers": ["stun:127.0.0.1:{ports[1]}"]}}]}}'
        )
        yield path
        silent.sendto(b"", answering.getsockname())
        thread.join(5)


@pytest.fixture
def options(map_file: Path) -> dict[str, Any]:
    return {
        "signaling": InProcessSignaling(InProcessHub()),
        "state": False,
        "key": False,
        "known_peers": False,
        "relay_map": map_file,
    }


def test_pings_are_measured_when_the_program_wants_them(options: dict[str, Any]) -> None:
    with Messages("alice", **options) as net:
        relays = net.relay_network

        def availability() -> Availability:
            return relays.status.availability

        assert availability() is Availability.NEVER_TRIED
        assert relays.location() is None
        assert [place.name for place in relays.places] == ["Frankfurt", "Amsterdam"]
        told: list[RelayNetworkChanged] = []
        net.on_relay_network_status = told.append
        assert not relays.is_up_to_date(60)
        until(lambda: relays.is_up_to_date(60))
        net.run_callbacks()
        assert told[-1].status == relays.status
        assert availability() is Availability.CURRENT
        found = relays.location()
        assert found is not None
        assert found[0].nearest == "fra"
        assert 0 <= found[1] < 60
        assert relays.direct_ms_to("fra") == found[0].ms_to("fra")
        assert relays.direct_ms_to("ams") is None
        ms, via = relays.ms_to("ams") or (0, "")
        assert (ms > 0, via) == (True, "fra")
        assert relays.estimate_ms_to("fra=30") == relays.estimate_ms_between(found[0], "fra=30")
        with pytest.raises(UsageError):
            relays.estimate_ms_to("nonsense")


def test_aio_sees_the_same(options: dict[str, Any]) -> None:
    async def run() -> None:
        async with aio.open("alice", **options) as net:
            told: asyncio.Queue[RelayNetworkChanged] = asyncio.Queue()
            net.on_relay_network_status = told.put_nowait
            net.relay_network.start()
            async with asyncio.timeout(10):
                while (await told.get()).status.availability is not Availability.CURRENT:
                    pass
            assert net.relay_network.location() is not None

    asyncio.run(run())


def test_godot_steam_has_its_functions_keys_and_numbers(options: dict[str, Any]) -> None:
    with Steam("str:alice", **options) as steam:
        assert all(callable(getattr(steam, name)) for name in FUNCTIONS.split())
        assert steam.getRelayNetworkStatus() == Steam.NETWORKING_AVAILABILITY_NEVER_TRIED
        assert steam.getLocalPingLocation() == {"location": b"", "age": -1.0}
        assert (steam.getPOPCount(), steam.getPOPList()) == (2, [FRA, AMS])
        told: list[tuple[int, int, int, int, str]] = []
        steam.relay_network_status.connect(lambda *arguments: told.append(arguments))
        steam.run_callbacks()
        steam.initRelayNetworkAccess()
        until(lambda: steam.getRelayNetworkStatus() == Steam.NETWORKING_AVAILABILITY_CURRENT)
        until(lambda: steam.checkPingDataUpToDate(60.0))
        steam.run_callbacks()
        assert told[-1][:4] == (100, 0, 100, 100)
        here = steam.getLocalPingLocation()
        text = steam.convertPingLocationToString(here["location"])
        assert text.startswith("fra=")
        assert steam.parsePingLocationString(text) == {"success": True, "ping_location": here["location"]}
        assert steam.parsePingLocationString("nonsense") == {"success": False, "ping_location": b""}
        there = steam.parsePingLocationString("fra=30")["ping_location"]
        assert (
            steam.estimatePingTimeFromLocalHost(there) == steam.estimatePingTimeBetweenTwoLocations(here["location"], there) >= 30
        )
        assert steam.estimatePingTimeFromLocalHost(b"xyz=1") == Steam.NETWORKING_PING_UNKNOWN
        assert steam.estimatePingTimeFromLocalHost(b"?") == Steam.NETWORKING_PING_UNKNOWN
        assert steam.getDirectPingToPOP(FRA) >= 0
        assert steam.getDirectPingToPOP(AMS) == steam.getDirectPingToPOP(7) == Steam.NETWORKING_PING_UNKNOWN
        assert steam.getPingToDataCenter(FRA)["pop_relay"] == 0
        assert steam.getPingToDataCenter(AMS)["pop_relay"] == FRA
        assert steam.getPingToDataCenter(7) == {"pop_relay": 0, "ping": Steam.NETWORKING_PING_UNKNOWN}


def test_without_a_map_nothing_can_be_tried(options: dict[str, Any]) -> None:
    with Messages("alice", **options | {"relay_map": None}) as net:
        assert net.relay_network.status.availability is Availability.CANNOT_TRY
        assert not net.relay_network.is_up_to_date(60)
        assert net.relay_network.estimate_ms_to("fra=1") is None
    with Messages("alice", **options | {"relay_map": None, "signaling": None}) as net:
        assert net.relay_network.status.availability is Availability.CANNOT_TRY
        net.relay_network.start()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"relay_map": 7}, "relay_map"),
        ({"relay_map": "/nowhere/map.json"}, "map.json"),
        ({"relay_tickets": ("user",)}, "relay_tickets"),
        ({"relay_tickets": "/nowhere/tickets"}, "tickets"),
        ({"signaling": None}, "relay_map"),
        ({"hide_ip": True, "signaling": "lan"}, "hide_ip"),
        ({"hide_ip": True, "signaling": ["lan"]}, "hide_ip"),
        ({"hide_ip": True, "signaling": LanSignaling()}, "hide_ip"),
        ({"hide_ip": True, "signaling": None}, "hide_ip"),
        ({"hide_ip": True, "listen": "127.0.0.1:0"}, "hide_ip"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Messages("alice", **options | wrong)


def test_tickets_are_read_from_a_file_for_its_owners_eyes_only(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tickets"
    path.write_text("fra 1800000000:str:alice hush-hush\n")
    path.chmod(0o600)
    with Messages("alice", **options | {"relay_tickets": path}) as net:
        path.write_text("fra 1800003600:str:alice\n")
        with pytest.raises(UsageError, match="line 1") as caught:
            net.relay_network.replace(tickets=path)
        assert "hush" not in str(caught.value)
        path.write_text("fra 1800003600:str:alice other\n")
        net.relay_network.replace(tickets=path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod"):
        Messages("alice", **options | {"relay_tickets": path})
