"""GodotSteam's names: functions, keys, signals, constants, registry."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peergram import ConnectionState, EndReason, Identity, InfoFlags, SendFlags, UsageError
from peergram.adapters.godot_constants import CONSTANTS, DEPRECATED, ENUMS
from peergram.adapters.godot_steam import Signal, Steam

from .godot_names import ENUM_NAMES, FUNCTIONS, RELAY_FUNCTIONS, VALUES

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
    assert (both["user_data"], both["listen_socket"], both["remote_pop"], both["pop_relay"]) == (-1, 0, 0, 0)
    assert (both["end_reason"], both["end_debug"], both["remote_address"]) == (0, "", place.removeprefix("ip:"))
    assert set(alice.getSessionConnectionInfo(place, False, False)) == {"connection_state", "state"}
    assert set(alice.getSessionConnectionInfo(place, True, False)) == CONNECTION_KEYS | {"state"}
    assert set(alice.getSessionConnectionInfo(place, False, True)) == STATUS_KEYS | {"connection_state"}


@pytest.mark.parametrize("who", ["str:nobody", "a name without an entry", "an empty entry", 0])
def test_unknown_values_are_the_reference_s(pair: tuple[Steam, Steam, str], who: str | int) -> None:
    alice, _, _ = pair
    alice.addIdentity("an empty entry")
    assert alice.getSessionConnectionInfo(who, True, True) == {
        "state": 0, "connection_state": 0, "identity": "invalid", "user_data": -1, "listen_socket": 0, "remote_address": "",
        "remote_pop": 0, "pop_relay": 0, "info_flags": 0, "end_reason": 0, "end_debug": "", "debug_description": "", "ping": -1,
        "local_quality": -1.0, "remote_quality": -1.0, "packets_out_per_second": 0.0, "bytes_out_per_second": 0.0,
        "packets_in_per_second": 0.0, "bytes_in_per_second": 0.0, "send_rate": 262_144, "pending_unreliable": 0,
        "pending_reliable": 0, "send_unacknowledged_reliable": 0, "sent_unacknowledged_reliable": 0, "queue_time": (1 << 63) - 1,
    }  # fmt: skip


def test_a_request_waits_for_somebody_to_be_connected(pair: tuple[Steam, Steam, str]) -> None:
    alice, bob, place = pair
    alice.sendMessageToUser(place, b"x", Steam.NETWORKING_SEND_RELIABLE, 0)
    assert bob.messages.wait(20)
    bob.run_callbacks()
    asked: list[str] = []
    bob.network_messages_session_request.connect(asked.append)
    bob.run_callbacks()
    assert asked == ["str:alice"]
    bob.network_messages_session_request.disconnect(asked.append)
    assert not bob.network_messages_session_request.has_connections()


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
    # Who is nobody gets nothing, and his name makes no entry.
    for nobody in ("bobs place", "bob", "", 0, -1, 1 << 64):
        assert alice.sendMessageToUser(nobody, b"x", 8, 0) == 8
        assert not alice.acceptSessionWithUser(nobody)
        assert not alice.closeSessionWithUser(nobody)
        assert not alice.closeChannelWithUser(nobody, 0)
    assert [entry["reference_name"] for entry in alice.getIdentities()] == ["bob's place"]
    # Nobody carries signals here, so a Steam id cannot be reached, but it is understood.
    assert alice.sendMessageToUser(STEAM_ID, b"x", 8, 0) == 2
    for wrong in (1.5, None, True, b"str:bob"):
        with pytest.raises(UsageError, match="a peer is"):
            alice.sendMessageToUser(wrong, b"", 0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["steamid:no number", "str:" + "x" * 32, "gen:abc", "ip:nowhere", "UPPER:case", ":", "psn:"])
def test_text_that_is_no_identity_is_nobody_and_the_log_says_why(
    pair: tuple[Steam, Steam, str], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    alice = pair[0]
    assert alice.sendMessageToUser(text, b"x", Steam.NETWORKING_SEND_RELIABLE, 0) == 8
    assert not alice.acceptSessionWithUser(text)
    assert not alice.closeSessionWithUser(text)
    assert not alice.closeChannelWithUser(text, 0)
    assert alice.getSessionConnectionInfo(text, True, True)["state"] == Steam.CONNECTION_STATE_NONE
    assert alice.getIdentities() == []
    # Once, however often the script tries.
    assert [f"{text!r} is nobody" in record.getMessage() for record in caplog.records] == [True]


def test_what_is_no_message_is_refused_with_words(pair: tuple[Steam, Steam, str]) -> None:
    alice, _, place = pair
    with pytest.raises(UsageError, match="a message is bytes"):
        alice.sendMessageToUser(place, "text", 8, 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="channel"):
        alice.sendMessageToUser(place, b"", 8, 1 << 31)
    for wrong in ("8", 1.5, None):
        calls: list[tuple[str, Callable[[Any], object]]] = [
            ("flags", lambda value: alice.sendMessageToUser(place, b"", value, 0)),
            ("channel", lambda value: alice.sendMessageToUser(place, b"", 8, value)),
            ("channel", lambda value: alice.receiveMessagesOnChannel(value, 1)),
            ("max_messages", lambda value: alice.receiveMessagesOnChannel(0, value)),
            ("channel", lambda value: alice.closeChannelWithUser(place, value)),
        ]
        for what, call in calls:
            with pytest.raises(UsageError, match=f"{what}: give a whole number"):
                call(wrong)
    assert alice.sendMessageToUser(place, bytes(Steam.MAX_STEAM_PACKET_SIZE + 1), 8, 0) == 8
    assert alice.getSessionConnectionInfo(place, False, False)["state"] == Steam.CONNECTION_STATE_NONE


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


def test_the_constants_are_those_of_the_pages_with_their_values() -> None:
    assert {name: value for name, value in VALUES.items() if name not in DEPRECATED} == CONSTANTS


def test_every_constant_is_on_the_class_and_on_its_instances(pair: tuple[Steam, Steam, str]) -> None:
    for name in VALUES.keys() - DEPRECATED.keys():
        assert getattr(Steam, name) == getattr(pair[0], name) == VALUES[name]
    with pytest.raises(AttributeError, match="no 'NETWORKING_SEND_MAYBE'"):
        Steam.NETWORKING_SEND_MAYBE  # noqa: B018


@pytest.mark.parametrize("wrong", sorted(DEPRECATED))
def test_a_misspelt_constant_works_and_warns_where_it_is_used(pair: tuple[Steam, Steam, str], wrong: str) -> None:
    for place in (Steam, pair[0]):
        with pytest.warns(DeprecationWarning, match=f"{wrong} is a misspelling of {DEPRECATED[wrong]}") as caught:
            assert getattr(place, wrong) == VALUES[wrong]
        assert [warning.filename for warning in caught] == [__file__]


def test_four_constants_are_misspelt() -> None:
    assert set(DEPRECATED) == {
        "NETWORKING_SEND_URELIABLE_NO_NAGLE", "CONNECTION_END_REMOVE_MIN", "NETWORKING_CONFIG_FAKE_PACKET_DUP_REVC",
        "NETWORKING_CONFIG_LOG_LEVEL_SRD_RELAY_PINGS",
    }  # fmt: skip


def test_enums_have_their_members() -> None:
    assert set(ENUMS) == ENUM_NAMES
    assert Steam.NetworkingConnectionState.CONNECTION_STATE_CONNECTED == 3
    for name, members in ENUMS.items():
        assert vars(getattr(Steam, name)) == {member: VALUES[member] for member in members}


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


def test_the_functions_are_those_of_the_pages() -> None:
    assert {name for name in dir(Steam) if name[0].islower() and not name.islower()} == FUNCTIONS | RELAY_FUNCTIONS


def test_the_example_runs() -> None:
    root = Path(__file__).resolve().parents[2]
    script = [sys.executable, str(root / "examples" / "godot_steam_chat.py")]
    done = subprocess.run(
        script, check=False, timeout=30, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)}
    )
    said = ["str:alice wants to talk", "str:alice says hello", "str:bob says hello yourself", "connected: True"]
    assert (done.returncode, done.stdout.splitlines()) == (0, said), done.stderr


def test_the_ported_script_of_the_docs_is_the_example_s() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/godot_steam.md").read_text(encoding="utf-8")
    ported = page.split("After, in Python", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    assert len(ported) > 500
    assert ported in (root / "examples/godot_steam_chat.py").read_text(encoding="utf-8")
