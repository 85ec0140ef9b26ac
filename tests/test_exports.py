"""The public surface, pinned: a name that comes or goes is a decision, not an accident."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import peergram
from peergram import aio

PUBLIC = [
    "AddressInUseError",
    "Availability",
    "Blob",
    "BlobError",
    "COMPILED",
    "ClosedError",
    "Config",
    "ConnectionInfo",
    "ConnectionState",
    "Delivered",
    "DroppedDatagrams",
    "EndReason",
    "Identity",
    "IdentityInUseError",
    "InfoFlags",
    "Message",
    "MessageTooLargeError",
    "Messages",
    "NoRouteError",
    "PeerRefused",
    "PeergramError",
    "PingAnswer",
    "RealTimeStatus",
    "Receipt",
    "RelayNetworkChanged",
    "RelayNetworkStatus",
    "Result",
    "RouteChanged",
    "SendError",
    "SendFlags",
    "SessionBrokenError",
    "SessionFailed",
    "SessionInfo",
    "SessionRequested",
    "Unconfirmed",
    "UsageError",
]
MESSAGES = {
    "accept_session_with_user": "(identity)",
    "close": "()",
    "close_channel_with_user": "(identity, channel)",
    "close_session_with_user": "(identity)",
    "dropped_datagrams": "()",
    "fileno": "(channel=None)",
    "flush_messages": "(identity)",
    "get_session_connection_info": "(identity, get_connection=True, get_status=True)",
    "key_fingerprint": None,
    "local_addresses": None,
    "on_delivered": None,
    "on_relay_network_status": None,
    "on_route_changed": None,
    "ping_user": "(identity)",
    "receive_messages_on_channel": "(channel, max_messages)",
    "receive_blob_on_channel": "(channel, into=None, identity=None, size_max=None, progress=None, timeout_s=None)",
    "renew_authorities": "(authorities)",
    "renew_certificate": "(certificate)",
    "run_callbacks": "()",
    "send_blob_to_user": "(identity, source, channel=0, name='', progress=None, give_up_after_s=30.0)",
    "send_message_to_user": "(identity, data, flags=0, channel=0)",
    "send_messages_to_user": "(identity, messages, flags=0, channel=0)",
    "send_with_receipt": "(identity, data, flags=8, channel=0)",
    "set_framing": "(identity, framing)",
    "signaling_status": None,
    "wait": "(timeout_s=None, channel=None)",
    "wait_for_room": "(identity, timeout_s=None)",
    "wait_until_sent": "(timeout_s=None)",
}
NET = {
    "accept": "(identity)",
    "aclose": "()",
    "channel": "(channel)",
    "close": "(identity)",
    "close_channel": "(identity, channel)",
    "connected": "(identity)",
    "failures": "()",
    "flush": "(identity)",
    "info": "(identity)",
    "key_fingerprint": None,
    "local_addresses": None,
    "on_peer_refused": None,
    "on_relay_network_status": None,
    "on_route_changed": None,
    "on_session_failed": None,
    "on_session_request": None,
    "receive": "(channel=0)",
    "receive_blob": "(channel, into=None, identity=None, size_max=None, progress=None)",
    "renew_authorities": "(authorities)",
    "renew_certificate": "(certificate)",
    "requests": "()",
    "send": "(identity, data, reliable=True, channel=0, delivered=False)",
    "send_blob": "(identity, source, channel, name='', progress=None, give_up_after_s=30.0)",
    "signaling_status": None,
}
"""Of `peergram.aio`."""


def test_the_package_exports_these_names_and_no_others() -> None:
    assert sorted(peergram.__all__) == PUBLIC == sorted(PUBLIC)
    modules = {name for name, value in vars(peergram).items() if inspect.ismodule(value)}
    assert {name for name in vars(peergram) if not name.startswith("_")} - modules == set(PUBLIC)


def test_every_exported_name_is_documented() -> None:
    for name in PUBLIC:
        value = getattr(peergram, name)
        assert value.__doc__, name
        if inspect.isclass(value) and value.__module__ == "peergram.messages":
            for member, function in vars(value).items():
                if not member.startswith("_") and callable(function):
                    assert function.__doc__, f"{name}.{member}"


@pytest.mark.parametrize(("dress", "table"), [(peergram.Messages, MESSAGES), (aio.Net, NET)])
def test_each_dress_has_these_methods_with_these_arguments(dress: type, table: dict[str, str | None]) -> None:
    members = {name: value for name, value in vars(dress).items() if not name.startswith("_")}
    assert set(members) == set(table)
    for name, expected in table.items():
        if expected is not None:
            assert plain_signature(members[name]) == expected


def plain_signature(function: object) -> str:
    """Names and defaults, without types and self; flags by their number."""
    assert callable(function)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    shown = []
    for parameter in parameters:
        default = parameter.default
        number = int(default) if isinstance(default, int) and not isinstance(default, bool) else default
        shown.append(parameter.name if default is parameter.empty else f"{parameter.name}={number!r}")
    return f"({', '.join(shown)})"


def test_options_are_given_by_name() -> None:
    parameters = inspect.signature(peergram.Messages).parameters.values()
    assert [p.name for p in parameters if p.kind != p.KEYWORD_ONLY] == ["identity"]
    config = inspect.signature(peergram.Config).parameters.values()
    assert all(p.kind == p.KEYWORD_ONLY for p in config)


def test_the_types_ship_with_the_package() -> None:
    root = Path(peergram.__file__).parent
    assert (root / "py.typed").is_file()


def test_every_error_is_a_peergram_error_and_a_usual_one_where_that_helps() -> None:
    assert issubclass(peergram.UsageError, peergram.PeergramError)
    assert issubclass(peergram.UsageError, ValueError)
    assert issubclass(peergram.AddressInUseError, OSError)
    assert issubclass(peergram.IdentityInUseError, peergram.UsageError)
    assert issubclass(peergram.ClosedError, peergram.PeergramError)


def test_the_numbers_are_those_of_the_reference() -> None:
    assert [int(result) for result in peergram.Result] == [1, 2, 3, 8, 11, 25, 35, 41]
    assert (int(peergram.SendFlags.RELIABLE), int(peergram.SendFlags.AUTO_RESTART_BROKEN_SESSION)) == (8, 32)
    assert [int(state) for state in peergram.ConnectionState] == [0, 1, 2, 3, 4, 5, -1, -2, -3]
    assert [int(flag) for flag in peergram.InfoFlags] == [1, 2, 4, 8, 16, 32]
    assert (int(peergram.EndReason.SESSION_CLOSED), int(peergram.EndReason.MISC_TIMEOUT)) == (1001, 5003)


def test_public_texts_name_no_machine() -> None:
    root = Path(peergram.__file__).parent
    for path in root.rglob("*.py"):
        assert not re.search(r"/(home|Users|work|tmp)/", path.read_text(encoding="utf-8")), path
