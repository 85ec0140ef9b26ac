"""GodotSteam's names: functions, keys, signals, constants, registry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peergram import ConnectionState, EndReason, Identity, InfoFlags, SendFlags, UsageError
from peergram.adapters.godot_constants import CONSTANTS, DEPRECATED
from peergram.adapters.godot_identities import IdentityRegistry
from peergram.adapters.godot_steam import Signal, Steam

STEAM_ID = 1 << 56 | 1 << 52 | 1 << 32 | 99
CONNECTION_KEYS = {
    "identity", "user_data", "listen_socket", "remote_address", "remote_pop", "pop_relay", "info_flags", "connection_state",
    "end_reason", "end_debug", "debug_description",
}  # fmt: skip
STATUS_KEYS = {
    "state", "ping", "local_quality", "remote_quality", "packets_out_per_second", "bytes_out_per_second", "packets_in_per_second",
    "bytes_in_per_second", "send_rate", "pending_unreliable", "pending_reliable", "send_unacknowledged_reliable",
    "sent_unacknowledged_reliable", "queue_time",
}  # fmt: skip
MESSAGE_KEYS = {
    "payload", "size", "connection", "identity", "receiver_user_data", "time_received", "message_number", "channel", "flags",
    "sender_user_data",
}  # fmt: skip


@pytest.fixture
def pair() -> Iterator[tuple[Steam, Steam, str]]:
    """Alice, Bob who listens, and where he does."""
    with (
        Steam("str:bob", trust="open", listen="127.0.0.1:0", signaling=None) as bob,
        Steam(identity="str:alice", trust="open", signaling=None) as alice,
    ):
        yield alice, bob, f"ip:127.0.0.1:{bob.messages.local_addresses[0][1]}"


def until(done: Callable[[], object], *steams: Steam, limit_s: float = 20) -> None:
    end_s = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end_s, "did not happen in time"
        for steam in steams:
            steam.run_callbacks()
        time.sleep(0.002)


def connected(alice: Steam, bob: Steam, place: str) -> list[dict[str, Any]]:
    """One reliable message arrives; what Bob received."""
    bob.network_messages_session_request.connect(lambda identity: bob.acceptSessionWithUser(identity))
    assert alice.sendMessageToUser(place, b"a\0b", Steam.NETWORKING_SEND_RELIABLE, 3) == 1
    received: list[dict[str, Any]] = []

    def has_come() -> bool:
        received.extend(bob.receiveMessagesOnChannel(3, 10))
        return bool(received)

    until(has_come, alice, bob)
    return received


def test_a_message_arrives_with_every_key(pair: tuple[Steam, Steam, str]) -> None:
    alice, bob, place = pair
    (message,) = connected(alice, bob, place)
    assert set(message) == MESSAGE_KEYS
    assert (message["payload"], message["size"], message["identity"], message["channel"]) == (b"a\0b", 3, "str:alice", 3)
    assert (message["connection"], message["flags"]) == (0, Steam.NETWORKING_SEND_RELIABLE)


def test_the_request_names_the_stranger_as_text(pair: tuple[Steam, Steam, str]) -> None:
    alice, bob, place = pair
    asked: list[str] = []
    bob.network_messages_session_request.connect(asked.append)
    alice.sendMessageToUser(place, b"x", Steam.NETWORKING_SEND_RELIABLE, 0)
    until(lambda: asked, alice, bob)
    assert asked == ["str:alice"]
    assert bob.addIdentity("friend")
    assert bob.parseIdentityString("friend", asked[0])
    assert bob.acceptSessionWithUser("friend")
    until(lambda: bob.receiveMessagesOnChannel(0, 1), alice, bob)


def test_info_has_every_key_and_both_spellings(pair: tuple[Steam, Steam, str]) -> None:
    alice, bob, place = pair
    connected(alice, bob, place)
    both = alice.getSessionConnectionInfo(place, True, True)
    assert set(both) == CONNECTION_KEYS | STATUS_KEYS
    assert both["connection_state"] == both["state"] == Steam.CONNECTION_STATE_CONNECTED
    assert both["identity"] == "str:bob"
    assert both["info_flags"] & Steam.NETWORKING_CONNECTION_INFO_FLAG_UNAUTHENTICATED
    assert set(alice.getSessionConnectionInfo(place, False, False)) == {"connection_state", "state"}
    assert set(alice.getSessionConnectionInfo(place, True, False)) == CONNECTION_KEYS | {"state"}
    assert set(alice.getSessionConnectionInfo(place, False, True)) == STATUS_KEYS | {"connection_state"}


def test_unknown_values_are_the_reference_s(pair: tuple[Steam, Steam, str]) -> None:
    alice, _, _ = pair
    info = alice.getSessionConnectionInfo("str:nobody", True, True)
    assert info["state"] == info["connection_state"] == 0
    assert (info["ping"], info["local_quality"], info["remote_quality"]) == (-1, -1.0, -1.0)
    assert (info["user_data"], info["queue_time"], info["send_rate"]) == (-1, (1 << 63) - 1, 262_144)


def test_a_failure_says_why_who_and_what(pair: tuple[Steam, Steam, str]) -> None:
    alice, bob, place = pair
    failures: list[tuple[object, ...]] = []
    alice.network_messages_session_failed.connect(lambda *arguments: failures.append(arguments))
    connected(alice, bob, place)
    alice.sendMessageToUser(place, bytes(400_000), Steam.NETWORKING_SEND_RELIABLE, 0)
    bob.close()
    until(lambda: failures, alice)
    reason, identity, state, debug = failures[0]
    assert (reason, identity, state) == (1_001, place, Steam.CONNECTION_STATE_CLOSED_BY_PEER)
    assert isinstance(debug, str)


def test_closing_a_channel_and_a_session(pair: tuple[Steam, Steam, str]) -> None:
    alice, bob, place = pair
    connected(alice, bob, place)
    assert not alice.closeChannelWithUser(place, 9)
    assert alice.closeChannelWithUser(place, 3)
    assert not alice.closeSessionWithUser(place)
    assert not alice.acceptSessionWithUser(place)


def test_a_peer_is_named_in_four_ways(pair: tuple[Steam, Steam, str]) -> None:
    alice, _, place = pair
    assert alice.addIdentity("bob's place")
    assert alice.sendMessageToUser("bob's place", b"", 0, 0) == 8
    assert alice.parseIdentityString("bob's place", place)
    for reference in ("bob's place", place, Identity.of(place)):
        assert alice.sendMessageToUser(reference, b"x", 8, 0) == 1
    # Nobody carries signals here, so a Steam id cannot be reached, but it is understood.
    assert alice.sendMessageToUser(STEAM_ID, b"x", 8, 0) == 2
    for wrong in (1.5, None, True, b"str:bob"):
        with pytest.raises(UsageError, match="a peer is"):
            alice.sendMessageToUser(wrong, b"", 0, 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        alice.sendMessageToUser("steamid:no number", b"", 0, 0)


@pytest.mark.parametrize("max_messages", [0, -1, -(1 << 40)])
def test_no_messages_wanted_are_none(pair: tuple[Steam, Steam, str], max_messages: int) -> None:
    assert pair[0].receiveMessagesOnChannel(0, max_messages) == []


def test_signals_call_whom_is_connected_once_and_in_order() -> None:
    signal, heard = Signal(), list[str]()

    def first(word: str) -> None:
        heard.append(f"first {word}")
        signal.disconnect(second)

    def second(word: str) -> None:
        heard.append(f"second {word}")

    for each in (first, second, first):
        signal.connect(each)
    signal.emit("a")
    signal.emit("b")
    signal.disconnect(second)
    assert heard == ["first a", "second a", "first b"]
    assert (signal.is_connected(first), signal.is_connected(second)) == (True, False)


def test_the_registry_keeps_each_kind_and_makes_no_entry_by_being_asked() -> None:
    registry = IdentityRegistry()
    assert registry.toIdentityString("who") == "invalid"
    assert registry.isIdentityInvalid("who")
    assert not registry.setGenericString("who", "alice")
    assert registry.getIdentities() == []
    assert registry.addIdentity("who")
    assert not registry.addIdentity("who")
    rows: list[tuple[Callable[[], bool], Callable[[], object], object, str, int]] = [
        (lambda: registry.setGenericString("who", "alice"), lambda: registry.getGenericString("who"), "alice", "str:alice", 2),
        (lambda: registry.setGenericBytes("who", b"\0\xff"), lambda: registry.getGenericBytes("who"), b"\0\xff", "gen:00ff", 3),
        (
            lambda: registry.setIdentitySteamID64("who", STEAM_ID),
            lambda: registry.getIdentitySteamID("who"),
            STEAM_ID,
            f"steamid:{STEAM_ID}",
            16,
        ),
        (lambda: registry.setXboxPairwiseID("who", "abc"), lambda: registry.getXboxPairwiseID("who"), "abc", "xboxpwid:abc", 17),
        (lambda: registry.setPSNID("who", 7), lambda: registry.getPSNID("who"), 7, "psn:7", 18),
    ]
    for put, get, value, text, kind in rows:
        assert put()
        assert (get(), registry.toIdentityString("who")) == (value, text)
        (entry,) = registry.getIdentities()
        assert entry == {"reference_name": "who", "steam_id": STEAM_ID if kind == 16 else 0, "type": kind}
    assert (registry.getGenericString("who"), registry.getGenericBytes("who"), registry.getXboxPairwiseID("who")) == ("", b"", "")
    assert registry.setIdentityLocalHost("who")
    assert registry.isIdentityLocalHost("who")
    assert not registry.parseIdentityString("who", "no identity")
    assert registry.toIdentityString("who") == "ip:::1"
    assert registry.clearIdentity("who")
    assert registry.isIdentityInvalid("who")


@pytest.mark.parametrize(
    "put",
    [
        lambda registry: registry.setGenericString("who", "x" * 32),
        lambda registry: registry.setGenericBytes("who", b""),
        lambda registry: registry.setIdentitySteamID("who", 0),
        lambda registry: registry.setIdentitySteamID("who", "text"),
        lambda registry: registry.setXboxPairwiseID("who", ""),
    ],
)
def test_what_is_no_identity_changes_nothing(put: Callable[[IdentityRegistry], bool]) -> None:
    registry = IdentityRegistry()
    registry.addIdentity("who")
    assert not put(registry)
    assert registry.isIdentityInvalid("who")


def test_every_constant_is_on_the_class_and_on_its_instances(pair: tuple[Steam, Steam, str]) -> None:
    for name, value in CONSTANTS.items():
        assert getattr(Steam, name) == getattr(pair[0], name) == value
    for wrong, right in DEPRECATED.items():
        with pytest.warns(DeprecationWarning, match=right):
            assert getattr(Steam, wrong) == CONSTANTS[right]
    with pytest.raises(AttributeError, match="no 'NETWORKING_SEND_MAYBE'"):
        Steam.NETWORKING_SEND_MAYBE  # noqa: B018


def test_the_enums_of_the_library_have_the_same_numbers() -> None:
    named = {
        "CONNECTION_STATE_": ConnectionState, "NETWORKING_CONNECTION_INFO_FLAG_": InfoFlags, "NETWORKING_SEND_": SendFlags,
        "CONNECTION_END_": EndReason,
    }  # fmt: skip
    compared = 0
    for prefix, enum in named.items():
        for member, value in vars(enum).items():
            if isinstance(value, int) and prefix + member in CONSTANTS:
                compared += 1
                assert CONSTANTS[prefix + member] == int(value)
    assert compared > 25


def test_no_name_of_the_page_is_missing() -> None:
    names = {name for name in dir(Steam) if re.fullmatch("[a-z]+([A-Z][a-z]*[0-9]*)+", name)}
    assert {
        "acceptSessionWithUser", "closeChannelWithUser", "closeSessionWithUser", "getSessionConnectionInfo",
        "receiveMessagesOnChannel", "sendMessageToUser", "addIdentity", "parseIdentityString", "toIdentityString",
    } <= names  # fmt: skip


def test_the_example_runs() -> None:
    root = Path(__file__).resolve().parents[2]
    script = [sys.executable, str(root / "examples" / "godot_steam_script.py")]
    done = subprocess.run(
        script, check=False, timeout=30, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert done.stdout.splitlines() == ["str:alice wants to talk", "str:alice says hello"], done.stderr
