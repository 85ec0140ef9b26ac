"""C4: the table of tampered hellos against the reference, as server and as client: what it refuses, and with which sentence.

Where the defect is in the hello itself, its sentence is ours, word for word. What it lets in and we do not is what it has no
policy for: remembered keys, keys as names, revocations, signed connection ids; and authorities, since only Valve's build has any.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from peergram.config import Config
from peergram.connection.handshake import Refused, self_made_credentials
from peergram.connection.handshake_client import ClientHandshake
from peergram.connection.handshake_server import ServerHandshake, answer_challenge_request, check_connect_request
from peergram.crypto.cookie import ChallengeCookies
from peergram.errors import WireError
from peergram.wire.control import ChallengeReply, ChallengeRequest, ConnectionClosed, ConnectOk, ConnectRequest, decode_control
from tests.threats.tampering import ALICE, ALICE_KEY, WALL_S, Change, in_hellos
from tests.threats.test_tampered_handshakes import ROWS, Row
from tests.threats.world import SOAK

from .child import ChildError
from .conftest import ReferenceFactory

LOCAL = "127.0.0.1"
CLIENT_ID, SERVER_ID = 0x12340002, 0x56780002
PATIENCE_S = 3.0
QUIET_S = 0.7
SAMPLE = {"somebody else's key", "for another app", "signature zero", "old version", "no binding", "agreement key of small order"}
"""What the daily suite looks at."""
SENT_BACK = {
    "plain text only",
    "agreement key of no type",
    "no agreement key",
    "agreement key too short",
    "agreement key of small order",
}
"""Found when the server accepts; then the client is told."""
DROPPED = {
    "certificate garbage": "Bad identity in cert.  Cert failed protobuf parse",
    "certified and unreadable": "Bad identity in cert.  Cert failed protobuf parse",
    "identity unreadable": "Bad identity in cert.  Failed to parse string",
    "identity of no kind": "Bad identity in cert.  Empty identity msg",
}
"""Nobody is told; these are the sentences in its log."""
OTHER_SENTENCE = {
    "certified key of an unknown type": "Unsupported key type 0",
    "certified key too short": "Invalid public key",
    "her connection id zero": "Didn't send valid connection ID",
}
"""Its authorities being none, a later check finds the defect."""
LETS_IN = {
    *(
        row.name
        for row in ROWS
        if row.policy != "open" and not row.text.startswith(("Cert is not", "Cert must", "Certs with", "Inv"))
    )
} - {*DROPPED, *OTHER_SENTENCE}
LETS_IN |= {row.name for row in ROWS if row.reason == 0}
LETS_IN |= {
    "certified for somebody else",
    "the guard's own name",
    "somebody else's address as name",
    "times changed, nothing signed",
    "authority added, nothing signed",
    "a revoked key where anyone may come",
    "another key than the known one where anyone may come",
    "no binding",
    "binding of another hello",
    "her connection id changed",
}


def now_us() -> int:
    return time.monotonic_ns() // 1_000


@contextmanager
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((LOCAL, 0))
        yield made


def messages(sock: socket.socket, for_s: float) -> Iterator[tuple[object, tuple[str, int]]]:
    """What arrives in that time; None for a packet of data."""
    end_s = time.monotonic() + for_s
    while (left_s := end_s - time.monotonic()) > 0:
        sock.settimeout(left_s)
        try:
            data, source = sock.recvfrom(2_000)
        except TimeoutError:
            return
        try:
            yield decode_control(data), source
        except WireError:
            yield None, source


def as_client(port: int, change: Change) -> str:
    """What a reference server answers to a changed connect request: "accepts", "reason text", or nothing."""
    credentials = self_made_credentials(ALICE, ALICE_KEY, os.urandom(16))
    handshake = ClientHandshake(credentials, Config(), CLIENT_ID, os.urandom, now_us())
    with udp() as sock:
        sock.sendto(handshake.poll_transmit(now_us()) or b"", (LOCAL, port))
        reply, _ = next(messages(sock, PATIENCE_S))
        assert isinstance(reply, ChallengeReply)
        handshake.handle_challenge_reply(reply, now_us())
        request = handshake.poll_transmit(now_us())
        assert request is not None
        sock.sendto(in_hellos("udp", "client", change)(request) or request, (LOCAL, port))
        for message, _ in messages(sock, QUIET_S):
            if isinstance(message, ConnectOk):
                return "accepts"
            if isinstance(message, ConnectionClosed):
                return f"{message.reason_code} {message.debug}"
    return ""


def as_server(sock: socket.socket, change: Change) -> str:
    """What a reference client says to a changed connect ok: "accepts" (or waits for better), or "reason text"."""
    cookies, credentials = ChallengeCookies(os.urandom), self_made_credentials(ALICE, ALICE_KEY, os.urandom(16))
    shaken: ServerHandshake | None = None
    for message, source in messages(sock, PATIENCE_S if shaken is None else QUIET_S):
        if isinstance(message, ChallengeRequest) and shaken is None:
            sock.sendto(answer_challenge_request(message, source, cookies, now_us()) or b"", source)
        elif isinstance(message, ConnectRequest):
            if shaken is None:
                checked = check_connect_request(message, source, credentials, Config(), now_us(), WALL_S, cookies=cookies)
                assert not isinstance(checked, Refused)
                shaken = checked
                shaken.accept(SERVER_ID, os.urandom, now_us())
            answer = shaken.connect_ok(now_us())
            sock.sendto(in_hellos("udp", "server", change)(answer) or answer, source)
        elif isinstance(message, ConnectionClosed):
            return f"{message.reason_code} {message.debug}"
        elif message is None:
            return "accepts"
    return ""


@pytest.mark.parametrize("row", [row for row in ROWS if SOAK or row.name in SAMPLE], ids=lambda row: row.name)
def test_the_reference_refuses_what_is_wrong_with_the_hello_itself(row: Row, reference: ReferenceFactory, free_port: int) -> None:
    """One process each, since it repeats no sentence of its log soon."""
    process = reference(identity="str:guard", log_level=5)
    process.request("listen", port=free_port)
    answer = as_client(free_port, row.change)
    with udp() as sock:
        process.request("connect", port=sock.getsockname()[1])
        verdict = as_server(sock, row.change)
    log = "\n".join(process.request("log")["log"])
    if row.name in LETS_IN:
        assert answer in ("accepts", ""), "a changed challenge is no challenge"
        assert verdict in ("accepts", "")
        assert "problem detected" not in log
    elif row.name in DROPPED:
        assert answer == ""
        assert DROPPED[row.name] in log
        assert verdict == ""
    else:
        text = OTHER_SENTENCE.get(row.name, row.text)
        said = f"{4003 if text.startswith('Cert') else row.reason if row.name not in OTHER_SENTENCE else 4002} {text}"
        if row.name.startswith("certified for nobody"):
            said, text = "4003 Certs with no identity can only by anonymous gameservers, not ip:127.0.0.1", text.split(" not ")[0]
        assert verdict.startswith(said)
        assert answer == (said if row.name in SENT_BACK else "")
        assert text in log


def test_a_reference_without_authorities_does_not_listen_where_they_are_demanded(
    reference: ReferenceFactory, free_port: int
) -> None:
    """Setting 23, IP_AllowWithoutAuth: 0 is no use in the open-source build, and 1 lets in whom 2 lets in."""
    process = reference(identity="str:guard", log_level=5)
    process.request("set_config", setting=23, value=0)
    with pytest.raises(ChildError, match="does not listen"):
        process.request("listen", port=free_port)
    assert "No cert authority, must set IP_AllowWithoutAuth" in "\n".join(process.request("log")["log"])
    process.request("set_config", setting=23, value=1)
    process.request("listen", port=free_port)
    (row,) = [row for row in ROWS if row.name == "another root"]
    assert as_client(free_port, row.change) == "accepts"
