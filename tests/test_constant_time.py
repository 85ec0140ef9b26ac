"""C8: what only the right peer can know is compared in constant time: no `==`, no `in` on a code, a password, a digest."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "peergram"
SECRETIVE = re.compile(
    r"(?:^|_)(?:h?mac|tag|cookie|challenge|digest|password|passphrase|secret|signature|integrity|token)s?(?:_|$)"
)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
PUBLIC = {
    ("crypto/keys.py", "base64.b64encode(digest).decode('ascii') == code + '='"): "whether a fingerprint is spelled as it should",
    (
        "crypto/key_text.py",
        "public == again == secret[KEY_BYTES:] == key.public_bytes",
    ): "the public half, thrice in one's own file",
    ("cli/send.py", "result.sha256 != digest.hexdigest()"): "the sum of a file that both sides hold",
    ("crypto/authority_text.py", "len(digest) == hashlib.sha256().digest_size"): "a length",
    ("servers/fleet_core.py", "login.token == token"): "of what the bus carries to every node",
    ("servers/relay_desk.py", "pop.code in secrets"): "whether a place has one",
    ("servers/relay_secret.py", "b'\\n' in secret"): "one's own file",
    ("cli/serve_relay.py", "(user is None) != (password is None)"): "whether there is one",
    ("signaling/lan_protocol.py", "digest in self._seen"): "of what everybody on the network hears",
    ("drivers/signaling/websocket.py", "hashlib.sha256(shown or b'').digest() != url.fingerprint"): "of a public certificate",
}
"""Comparisons of what everybody may know, under such a name."""


def names_in(node: ast.AST) -> Iterator[str]:
    """What is compared, but for lengths and constants."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("len", "type", "isinstance"):
        return
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    for child in ast.iter_child_nodes(node):
        yield from names_in(child)


def suspects(source: str) -> list[str]:
    """Comparisons whose time may tell how much of a guess was right."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not any(isinstance(operator, _COMPARISONS) for operator in node.ops):
            continue
        compared = [node.left, *node.comparators]
        if any(isinstance(each, ast.Constant) and not each.value for each in compared):
            continue
        names = [name for each in compared for name in names_in(each)]
        if any(SECRETIVE.search(name) for name in names if not name.isupper()):
            found.append(ast.unparse(node))
    return found


def all_suspects() -> set[tuple[str, str]]:
    return {
        (path.relative_to(PACKAGE).as_posix(), text)
        for path in sorted(PACKAGE.rglob("*.py"))
        if "proto" not in path.parts
        for text in suspects(path.read_text())
    }


def test_nothing_secret_is_compared_step_by_step() -> None:
    assert all_suspects() - set(PUBLIC) == set()


def test_every_exception_is_still_there() -> None:
    assert set(PUBLIC) - all_suspects() == set()


@pytest.mark.parametrize(
    "source",
    [
        "if mac == expected: pass",
        "ok = self._cookie != message.cookie",
        "ok = hmac.digest(key, data, 'sha1') == value",
        "ok = login.password in known",
        "ok = sealed[-16:] == tag",
        "ok = received_signature == signature",
        "ok = integrity_of(message) == found",
        "assert token == self.session_token",
    ],
)
def test_the_check_would_notice(source: str) -> None:
    assert suspects(source)


@pytest.mark.parametrize(
    "source",
    [
        "ok = hmac.compare_digest(mac, expected)",
        "ok = len(signature) != SIGNATURE_BYTES",
        "ok = kind == _MESSAGE_INTEGRITY",
        "ok = password == ''",
        "ok = stage == staging",
        "ok = age > cookie_age",
    ],
)
def test_the_check_allows_what_is_meant(source: str) -> None:
    assert not suspects(source)
