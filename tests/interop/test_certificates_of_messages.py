"""`Messages` with `trust="ca"` and a reference whose compiled-in root is ours: both sides, in both roles, see who vouches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from peergram import Config, Identity, InfoFlags, Messages, Result
from peergram.drivers.authority_files import make_authority
from peergram.errors import EndReason
from peergram.events import ConnectionState, SessionFailed, SessionRequested
from peergram.wire.certificate_text import write_certificate
from peergram.wire.certificates import StoredCertificate

from .conftest import ReferenceFactory
from .gns import Setting
from .ours import until
from .test_certificates import (
    OWN,
    ROOT,
    SERVER,
    STRANGER,
    UNAUTHENTICATED,
    certified,
    install,
    requested,
    rooted,
)

__all__ = ["rooted"]
pytestmark = pytest.mark.interop

RAW = Config(framing="raw")
QUIET_S = 1.5


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The folder of the authority whose root the reference has compiled in."""
    return make_authority(tmp_path / "ca", ROOT).folder


def certificate_file(tmp_path: Path) -> Path:
    """Ours, with our private key beside it."""
    path = tmp_path / "ours.cert"
    path.write_text(write_certificate(StoredCertificate(certified(OWN.public_bytes, SERVER), OWN.private_bytes())))
    path.chmod(0o600)
    return path


def waiting(net: Messages, condition: Callable[[], bool]) -> None:
    def attempt() -> bool:
        net.run_callbacks()
        return condition()

    until(attempt, lambda: "what was waited for")


def test_a_reference_that_we_certified_asks_as_certified_and_sees_us_so(
    rooted: ReferenceFactory, tmp_path: Path, authority: Path
) -> None:
    peer = rooted(identity="str:alice")
    assert install(peer, certified(requested(peer).key_data))[0]
    for setting in (Setting.IP_ALLOW_WITHOUT_AUTH, Setting.IP_LOCAL_HOST_ALLOW_WITHOUT_AUTH):
        peer.request("set_config", setting=setting, value=0)
    requests: list[SessionRequested] = []
    with Messages(
        SERVER, trust="ca", authorities=authority, certificate=certificate_file(tmp_path), listen="127.0.0.1:0", config=RAW,
        signaling=None,
    ) as net:  # fmt: skip
        net.on_session_request = requests.append
        peer.request("connect", port=net.local_addresses[0][1])
        waiting(net, lambda: bool(requests))
        assert (requests[0].identity, requests[0].proven_by) == (Identity.of("alice"), "certificate")
        assert net.accept_session_with_user(requests[0].identity)
        peer.wait("connected")
        assert not peer.request("info")["info"]["flags"] & UNAUTHENTICATED
        info = net.get_session_connection_info(requests[0].identity).connection
        assert info is not None
        assert info.proven_by == "certificate"
        assert not info.flags & InfoFlags.UNAUTHENTICATED


@pytest.mark.parametrize("root", ["none", "another"])
def test_a_reference_that_nobody_we_trust_certified_stays_outside(
    rooted: ReferenceFactory, tmp_path: Path, authority: Path, root: str
) -> None:
    peer = rooted(identity="str:alice")
    if root == "another":
        assert install(peer, certified(requested(peer).key_data))[0]
        authority = make_authority(tmp_path / "other", STRANGER).folder
    requests: list[SessionRequested] = []
    with Messages(
        SERVER, key=False, trust="ca", authorities=authority, listen="127.0.0.1:0", config=RAW, signaling=None
    ) as net:  # fmt: skip
        net.on_session_request = requests.append
        peer.request("connect", port=net.local_addresses[0][1])
        until_s = time.monotonic() + QUIET_S
        while time.monotonic() < until_s:
            net.run_callbacks()
            time.sleep(0.01)
        assert requests == []


@pytest.mark.parametrize("is_certified", [True, False])
def test_we_dial_one_that_we_certified_and_no_other(
    rooted: ReferenceFactory, tmp_path: Path, authority: Path, free_port: int, is_certified: bool
) -> None:
    peer = rooted(identity="str:alice")
    if is_certified:
        assert install(peer, certified(requested(peer).key_data))[0]
    peer.request("listen", port=free_port)
    there = Identity.ip(("127.0.0.1", free_port))
    failures: list[SessionFailed] = []
    with Messages(
        SERVER, trust="ca", authorities=authority, certificate=certificate_file(tmp_path), config=RAW, signaling=None
    ) as net:
        net.on_session_failed = failures.append
        assert net.send_message_to_user(there, b"hello") == Result.OK
        if not is_certified:
            waiting(net, lambda: bool(failures))
            assert failures[0].reason == EndReason.REMOTE_BAD_CERT
            assert "Unsigned certs are not allowed" in failures[0].debug
            return
        waiting(net, lambda: net.get_session_connection_info(there).state == ConnectionState.CONNECTED)
        peer.wait("connected")
        seen = peer.request("info")["info"]
        assert (seen["identity"], seen["flags"] & UNAUTHENTICATED) == ("str:server", 0)
        info = net.get_session_connection_info(there).connection
        assert info is not None
        assert info.proven_by == "certificate"
