"""Certificates of our authorities in the reference, and the reference's requests and hellos at ours.

The reference trusts one root, compiled in, so two builds are needed: the usual one, and one that trusts the root of the vectors
(`PEERGRAM_GNS_ROOTED_LIBRARY`). Both are spoken to over plain UDP by the parts of a handshake alone.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from peergram import Config
from peergram.address import Address
from peergram.connection.handshake import LocalCredentials, self_made_credentials
from peergram.connection.handshake_client import ClientHandshake
from peergram.connection.handshake_server import answer_challenge_request
from peergram.crypto.authority import issue_certificate
from peergram.crypto.cookie import ChallengeCookies
from peergram.crypto.keys import SigningKey, verify
from peergram.crypto.trust import Scope, TrustStore
from peergram.drivers.system import monotonic_us, secure_entropy
from peergram.errors import WireError
from peergram.identity import Identity
from peergram.wire.certificates import (
    Certificate,
    SignedCertificate,
    StoredCertificate,
    decode_certificate,
    decode_certificate_request,
    encode_stored_certificate,
    read_identity,
    unknown_certificate_fields,
)
from peergram.wire.control import ChallengeReply, ChallengeRequest, ConnectionClosed, ConnectOk, ConnectRequest, decode_control
from tests.vectors_data import load

from .conftest import ReferenceFactory
from .gns import LIBRARY_VARIABLE, ROOTED_LIBRARY_VARIABLE, Setting
from .gns_process import ReferenceProcess
from .ours import until

pytestmark = pytest.mark.interop

ROOT = SigningKey(bytes.fromhex(load("01-crypto")["certificate_authority"]["root"]["ed25519_private"]))
STRANGER, OWN = (SigningKey(bytes([number]) * 32) for number in (8, 9))
ALICE, BOB, SERVER = (Identity.of(name) for name in ("alice", "bob", "server"))
DAY_S = 86_400
UNAUTHENTICATED = 1
"""Of the reference's flags."""
PATIENCE_S = 10.0


@pytest.fixture
def rooted(reference: ReferenceFactory, monkeypatch: pytest.MonkeyPatch) -> ReferenceFactory:
    """As `reference`, of the build that trusts our root."""
    library = os.environ.get(ROOTED_LIBRARY_VARIABLE)
    if not library:
        pytest.skip(f"no reference that trusts our root: set {ROOTED_LIBRARY_VARIABLE}")
    monkeypatch.setenv(LIBRARY_VARIABLE, library)
    return reference


def certified(
    key: bytes, identity: Identity = ALICE, *, by: SigningKey = ROOT, app_id: int = 0, from_s: int = 0, days: int = 1
) -> SignedCertificate:
    now_s = int(time.time()) + from_s
    return issue_certificate(
        by, subject_key=key, identity=identity, app_ids=(app_id,), created_s=now_s, expires_s=now_s + days * DAY_S
    )


def install(peer: ReferenceProcess, signed: SignedCertificate, private: SigningKey | None = None) -> tuple[bool, str, str]:
    """Whether it was taken, what was said, and who the reference is now."""
    stored = StoredCertificate(signed, None if private is None else private.private_bytes())
    answer = peer.request("set_certificate", certificate=encode_stored_certificate(stored).hex())
    return answer["is_taken"], answer["said"], answer["identity"]


def requested(peer: ReferenceProcess) -> Certificate:
    return decode_certificate_request(bytes.fromhex(peer.request("certificate_request")["request"]))


def until_logged(peer: ReferenceProcess, text: str) -> None:
    """The library tells its log on turns of its own."""
    until(lambda: any(text in line for line in peer.request("log")["log"]), lambda: f"{text!r} in {peer.request('log')}")


# The usual build


@pytest.mark.parametrize("name", [None, "str:alice", "steamid:76561197960265729"])
def test_a_request_of_the_reference_names_its_key_and_who_it_is(reference: ReferenceFactory, name: str | None) -> None:
    peer = reference(identity=name)
    wanted = requested(peer)
    assert len(wanted.key_data) == 32
    assert read_identity(wanted.identity_fields) == (None if name is None else Identity.parse(name))
    assert (wanted.time_created, wanted.time_expiry, wanted.app_ids, wanted.datacenter_ids) == (0, 0, (), ())
    assert requested(peer) == wanted


@pytest.mark.parametrize(("name", "said"), [(None, "Cert has invalid public key"), ("str:alice", "Cert is for identity '")])
def test_the_usual_build_takes_no_certificate_of_a_root_that_is_not_its_own(
    reference: ReferenceFactory, name: str | None, said: str
) -> None:
    # It announces that it goes on regardless, but never looks into the certificate then.
    peer = reference(identity=name, log_level=4)
    is_taken, text, _ = install(peer, certified(requested(peer).key_data))
    assert not is_taken
    assert text.startswith(said)
    until_logged(peer, "not currently able to verify our own cert!  CA key 5675683603175052145 is not known to us")


# The build that trusts our root


def test_a_certificate_made_for_its_request_is_taken_and_tells_it_who_it_is(rooted: ReferenceFactory) -> None:
    peer = rooted()
    assert install(peer, certified(requested(peer).key_data)) == (True, "", "str:alice")


def test_a_certificate_with_its_private_key_is_taken(rooted: ReferenceFactory) -> None:
    assert install(rooted(identity="str:alice"), certified(OWN.public_bytes), OWN) == (True, "", "str:alice")


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("identity", "Cert is for identity 'str:bob'.  We are 'str:alice'"),
        ("app", "Cert does not authorize us for App 0"),
        ("key", "Cert public key does not match our private key"),
    ],
)
def test_it_refuses_what_we_would_refuse(rooted: ReferenceFactory, defect: str, said: str) -> None:
    peer = rooted(identity="str:alice")
    key = requested(peer).key_data
    wrong = {"identity": certified(key, BOB), "app": certified(key, app_id=5), "key": certified(OWN.public_bytes)}[defect]
    assert install(peer, wrong)[:2] == (False, said)


@contextmanager
def plain_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        ours.settimeout(0.05)
        yield ours


def hello_of(peer: ReferenceProcess) -> ConnectRequest:
    """What the reference says of itself when it dials us."""
    cookies = ChallengeCookies(secure_entropy)
    with plain_socket() as ours:
        peer.request("connect", port=ours.getsockname()[1])
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            try:
                datagram, remote = ours.recvfrom(2_048)
                message = decode_control(datagram)
            except (TimeoutError, WireError):
                continue
            if isinstance(message, ChallengeRequest):
                answer = answer_challenge_request(message, remote, cookies, monotonic_us())
                assert answer is not None
                ours.sendto(answer, remote)
            elif isinstance(message, ConnectRequest):
                return message
    raise AssertionError("no hello came")


def test_its_hello_carries_our_certificate_and_we_see_that_our_authority_vouches(rooted: ReferenceFactory) -> None:
    peer = rooted()
    signed = certified(requested(peer).key_data)
    assert install(peer, signed)[0]
    hello = hello_of(peer)
    assert hello.cert == signed
    assert unknown_certificate_fields(hello.cert.cert) == ()
    store = TrustStore()
    store.add_root(ROOT.public_bytes)
    assert store.check_leaf(hello.cert, int(time.time())).scope == Scope()
    assert verify(key_of(hello.cert), hello.crypt.signature, hello.crypt.info)
    other = TrustStore()
    other.add_root(STRANGER.public_bytes)
    assert "is not known to us" in other.check_leaf(hello.cert, int(time.time())).text


def key_of(signed: SignedCertificate) -> bytes:
    return decode_certificate(signed.cert).key_data


def dial(peer: ReferenceProcess, port: int, signed: SignedCertificate | None) -> ConnectionClosed | ConnectOk | None:
    """What a reference that demands certificates answers to ours; None if nothing came in a second."""
    # Who has none himself cannot demand them.
    assert install(peer, certified(requested(peer).key_data, SERVER))[0]
    peer.request("listen", port=port)
    peer.request("set_config", setting=Setting.IP_ALLOW_WITHOUT_AUTH, value=0)
    peer.request("set_config", setting=Setting.IP_LOCAL_HOST_ALLOW_WITHOUT_AUTH, value=0)
    ours = self_made_credentials(ALICE, OWN, bytes(16))
    credentials: LocalCredentials = ours if signed is None else replace(ours, signed_certificate=signed)
    handshake = ClientHandshake(credentials, Config(), 0x0001_0001, secure_entropy, monotonic_us())
    there: Address = ("127.0.0.1", port)
    with plain_socket() as here:
        until_s = time.monotonic() + 1.0
        while time.monotonic() < until_s:
            handshake.handle_timeout(monotonic_us())
            while (datagram := handshake.poll_transmit(monotonic_us())) is not None:
                here.sendto(datagram, there)
            try:
                message = decode_control(here.recv(2_048))
            except (TimeoutError, WireError):
                continue
            if isinstance(message, ChallengeReply):
                handshake.handle_challenge_reply(message, monotonic_us())
            elif isinstance(message, ConnectOk | ConnectionClosed):
                return message
    return None


def test_a_reference_that_demands_certificates_lets_in_who_has_one_of_ours(rooted: ReferenceFactory, free_port: int) -> None:
    peer = rooted(identity="str:server")
    answer = dial(peer, free_port, certified(OWN.public_bytes))
    assert isinstance(answer, ConnectOk)
    store = TrustStore()
    store.add_root(ROOT.public_bytes)
    assert store.check_leaf(answer.cert, int(time.time())).scope == Scope()
    assert read_identity(decode_certificate(answer.cert.cert).identity_fields) == SERVER
    info = peer.request("info")["info"]
    assert info["identity"] == "str:alice"
    assert not info["flags"] & UNAUTHENTICATED


@pytest.mark.parametrize("defect", ["self-made", "expired", "other root", "other app"])
def test_a_reference_that_demands_certificates_keeps_everybody_else_out(
    rooted: ReferenceFactory, free_port: int, defect: str
) -> None:
    signed = {
        "self-made": None,
        "expired": certified(OWN.public_bytes, from_s=-2 * DAY_S),
        "other root": certified(OWN.public_bytes, by=STRANGER),
        "other app": certified(OWN.public_bytes, app_id=5),
    }[defect]
    peer = rooted(identity="str:server", log_level=5)
    assert dial(peer, free_port, signed) is None
    until_logged(peer, REASONS[defect])


def test_it_does_not_look_at_when_a_certificate_was_made(rooted: ReferenceFactory, free_port: int) -> None:
    # Ours does, since clocks that are wrong by days should be found out.
    assert isinstance(dial(rooted(identity="str:server"), free_port, certified(OWN.public_bytes, from_s=2 * DAY_S)), ConnectOk)


REASONS = {
    "self-made": "Unsigned certs are not allowed",
    "expired": "Cert expired",
    "other root": "is not known to us",
    "other app": "Cert is not authorized for appid 0, only 5",
}
