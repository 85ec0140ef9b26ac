"""`peergram id` as its users run it."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from peergram.cli.qr import qr_lines
from peergram.crypto.keys import SigningKey, fingerprint
from peergram.drivers.key_files import hold_key_of, key_path, read_key
from peergram.errors import IdentityInUseError
from peergram.identity import Identity

from .commands import environment, run_command

ALICE = Identity.of("alice")
KEY = SigningKey(bytes(range(1, 33)))
posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions and terminals as on POSIX systems")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEERGRAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def done(*arguments: str) -> str:
    """What a command printed; it worked and had nothing to add."""
    result = run_command("id", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_without_a_name_one_is_a_key_that_is_made_the_first_time(home: Path) -> None:
    first = run_command("id")
    assert (first.returncode, first.stderr) == (0, "A key was made for you.\n")
    key = read_key(home / "keys/default.key")
    assert first.stdout.splitlines() == [
        f"gen:{key.public_bytes.hex()}",
        f"  fingerprint  {fingerprint(key.public_bytes)}",
        f"  key          {home}/keys/default.key",
    ]
    assert done() == done("--no-qr") == first.stdout


def test_a_name_has_the_key_that_was_made_for_it(home: Path) -> None:
    missing = run_command("id", "alice")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "There is no key of str:alice yet; this makes one: peergram id new alice.\n"
    assert not home.exists()
    made = done("new", "alice")
    assert made.splitlines()[0] == "str:alice"
    assert f"  fingerprint  {fingerprint(read_key(key_path(ALICE, home)).public_bytes)}" in made.splitlines()
    assert done("alice") == done("str:alice") == made


@pytest.mark.parametrize("name", ["new", "list", "export", "show"])
def test_a_name_that_is_a_command_is_given_with_its_prefix(name: str) -> None:
    made = done("new", name)
    assert done(f"str:{name}") == made


@pytest.mark.parametrize("name", ["a b", "it's", "Zo\u00eb", "-x", "steamid:76561197960265729", "str:a:b"])
def test_the_command_it_suggests_for_an_odd_name_can_be_typed(name: str, home: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("quotes as on POSIX systems")
    missing = run_command("id", "--", name) if name.startswith("-") else run_command("id", name)
    assert missing.returncode == 1
    command = missing.stderr.partition("this makes one: peergram ")[2].rstrip().removesuffix(".")
    shell = f'"{sys.executable}" -m peergram.cli {command}'
    subprocess.run(["/bin/sh", "-c", shell], env=environment(), check=True, timeout=30, capture_output=True)
    assert read_key(key_path(Identity.of(name), home))


def test_a_key_that_is_there_is_not_overwritten_and_with_replace_it_is_kept(home: Path) -> None:
    done("new", "alice")
    old = read_key(key_path(ALICE, home)).public_bytes
    again = run_command("id", "new", "alice")
    assert (again.returncode, again.stdout) == (1, "")
    assert "There is a key of str:alice already" in again.stderr
    assert "--replace" in again.stderr
    assert read_key(key_path(ALICE, home)).public_bytes == old
    replaced = run_command("id", "new", "alice", "--replace")
    new = read_key(key_path(ALICE, home)).public_bytes
    assert replaced.returncode == 0
    assert f"  old key      {home}/keys/str%3aalice.key.old" in replaced.stdout.splitlines()
    assert f"  peergram known accept alice {fingerprint(new)}" in replaced.stderr.splitlines()
    assert read_key(home / "keys/str%3aalice.key.old").public_bytes == old != new
    back = run_command("id", "new", "alice", "--replace", "--from", str(home / "keys/str%3aalice.key.old"))
    assert back.returncode == 0
    assert read_key(key_path(ALICE, home)).public_bytes == old


def test_the_default_key_can_be_replaced_and_is_another_identity_then(home: Path) -> None:
    run_command("id")
    replaced = run_command("id", "new", "--default", "--replace")
    assert replaced.returncode == 0
    assert replaced.stdout.startswith(f"gen:{read_key(home / 'keys/default.key').public_bytes.hex()}\n")
    assert "another identity than before" in replaced.stderr


def test_a_key_in_use_is_shown_but_not_replaced(home: Path) -> None:
    held = hold_key_of(ALICE, home)
    try:
        assert fingerprint(held.key.public_bytes) in done("alice")
        refused = run_command("id", "new", "alice", "--replace")
        assert refused.returncode == 2
        assert "in use by another program" in refused.stderr
        with pytest.raises(IdentityInUseError):
            hold_key_of(ALICE, home)
    finally:
        held.release()


def test_an_exported_key_is_the_same_elsewhere(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = done("new", "alice")
    exported = run_command("id", "export", "alice", "--out", str(tmp_path / "alice.pem"))
    assert (exported.returncode, exported.stdout) == (0, f"Written to {tmp_path / 'alice.pem'}\n")
    assert "Whoever has this private key is str:alice" in exported.stderr
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "alice.pem").stat().st_mode) == 0o600
    monkeypatch.setenv("PEERGRAM_HOME", str(tmp_path / "elsewhere"))
    there = done("new", "alice", "--from", str(tmp_path / "alice.pem"))
    assert there.splitlines()[:2] == made.splitlines()[:2]


def test_an_exported_key_overwrites_nothing(home: Path, tmp_path: Path) -> None:
    run_command("id")
    (tmp_path / "precious").write_text("precious")
    for file, sentence in ((tmp_path / "precious", "is there already"), (tmp_path / "no/such", "cannot be written: No such")):
        refused = run_command("id", "export", "--out", str(file))
        assert refused.returncode in (1, 2)
        assert refused.stdout == ""
        assert sentence in refused.stderr
    assert (tmp_path / "precious").read_text() == "precious"


def test_an_exported_key_without_a_file_is_the_whole_output(home: Path) -> None:
    run_command("id")
    exported = run_command("id", "export")
    assert exported.stdout.encode() == read_key(home / "keys/default.key").to_pem()
    assert "show it to nobody" in exported.stderr
    assert run_command("id", "export", "bob").returncode == 1


def test_a_list_has_every_key_and_names_those_that_cannot_be_used(home: Path) -> None:
    assert done("list") == "There are no keys yet; peergram id makes one.\n"
    run_command("id")
    done("new", "alice")
    (home / "keys/str%3abob.key").write_text("damaged")
    (home / "keys/str%3abob.key").chmod(0o600)
    listed = run_command("id", "list")
    default, alice = read_key(home / "keys/default.key").public_bytes, read_key(key_path(ALICE, home)).public_bytes
    assert listed.stdout.splitlines() == [
        f"gen:{default.hex()} {fingerprint(default)} {home}/keys/default.key",
        f"str:alice {fingerprint(alice)} {home}/keys/str%3aalice.key",
    ]
    assert listed.stderr.count("\n") == 1
    assert "str%3abob.key' holds no key" in listed.stderr


def test_a_key_of_the_environment_goes_before_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("new", "alice")
    monkeypatch.setenv("PEERGRAM_KEY", KEY.private_bytes().hex())
    assert done().splitlines() == [
        f"gen:{KEY.public_bytes.hex()}", f"  fingerprint  {fingerprint(KEY.public_bytes)}", "  key          from PEERGRAM_KEY",
    ]  # fmt: skip
    assert fingerprint(KEY.public_bytes) in done("alice")
    other = run_command("id", "gen:" + "ab" * 32)
    assert other.returncode == 2
    assert "PEERGRAM_KEY is set, and is not the key of gen:" in other.stderr
    assert "programs use that key instead" in run_command("id", "new", "bob").stderr
    monkeypatch.setenv("PEERGRAM_KEY", "nonsense")
    wrong = run_command("id")
    assert wrong.returncode == 2
    assert "PEERGRAM_KEY must be 64 hexadecimal digits" in wrong.stderr
    assert "nonsense" not in wrong.stderr


@posix
def test_a_key_that_others_may_read_is_refused_with_the_command_to_type(home: Path) -> None:
    run_command("id")
    (home / "keys/default.key").chmod(0o644)
    refused = run_command("id")
    assert refused.returncode == 2
    assert refused.stderr.rstrip().rstrip(".").endswith(f"type: chmod 600 {home}/keys/default.key")


def test_no_command_but_export_shows_a_private_key(home: Path) -> None:
    (home / "given.pem").parent.mkdir()
    (home / "given.pem").write_bytes(KEY.to_pem())
    (home / "given.pem").chmod(0o600)
    shown = ""
    for arguments in (["new", "alice", "--from", str(home / "given.pem")], ["alice"], ["list"], ["new", "alice"]):
        result = run_command("-v", "id", *arguments)
        shown += result.stdout + result.stderr
    assert fingerprint(KEY.public_bytes) in shown
    assert KEY.private_bytes().hex() not in shown
    assert KEY.to_pem().splitlines()[1].decode() not in shown


def on_a_terminal(*arguments: str, columns: int = 80, **variables: str) -> str:
    """What a command shows to somebody who watches."""
    import fcntl
    import pty
    import termios

    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {name: value for name, value in environment().items() if name not in ("NO_COLOR", "COLUMNS")}
    command = subprocess.Popen(
        [sys.executable, "-m", "peergram.cli", *arguments], stdin=terminal, stdout=terminal, stderr=terminal,
        env=plain | {"TERM": "xterm-256color", "COLORTERM": "", "PYTHONIOENCODING": "utf-8"} | variables,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        while more := os.read(ours, 65_536):
            shown += more
    except OSError:
        pass  # Linux says so that the other side is closed
    os.close(ours)
    assert command.wait(30) == 0
    return shown.decode("utf-8", "replace").replace("\r\n", "\n")


def without_colours(text: str) -> list[str]:
    while "\x1b[" in text:
        before, _, after = text.partition("\x1b[")
        text = before + after.partition("m")[2]
    return text.splitlines()


@posix
def test_a_terminal_shows_a_code_for_a_camera_above_the_text(home: Path) -> None:
    run_command("id")
    text = done()
    identity = text.splitlines()[0]
    code = qr_lines(identity)
    assert code is not None
    shown = on_a_terminal("id")
    assert without_colours(shown)[: len(code)] == code
    assert without_colours(shown)[len(code) :][:3] == text.splitlines()
    assert "\x1b[38;5;16;48;5;231m" in shown
    # With the prompt below, nothing scrolls away.
    assert len(without_colours(shown)) <= 24
    assert max(map(len, code)) <= 80
    assert "█" not in on_a_terminal("id", "--no-qr")


@posix
def test_the_code_of_a_name_has_its_fingerprint(home: Path) -> None:
    made = done("new", "alice").splitlines()
    digits = made[1].split()[1]
    code = qr_lines(f"str:alice {digits}")
    assert code is not None
    shown = without_colours(on_a_terminal("id", "alice"))
    assert shown[: len(code)] == code
    assert f"  peergram known accept alice {digits}" in shown


@posix
def test_a_terminal_without_colours_shows_the_code_in_light_letters(home: Path) -> None:
    run_command("id")
    code = qr_lines(done().splitlines()[0])
    assert code is not None
    shown = on_a_terminal("id", NO_COLOR="1").splitlines()
    assert [line.translate(str.maketrans("█▀▄ ", " ▄▀█")) for line in shown[: len(code)]] == code


@posix
@pytest.mark.parametrize(
    ("columns", "variables", "sentence"),
    [
        (30, {}, "The QR code needs a window of 37"),
        (80, {"PYTHONIOENCODING": "ascii"}, "This terminal lacks the characters for a QR code."),
    ],
)
def test_where_a_code_cannot_be_shown_the_text_is(columns: int, variables: dict[str, str], sentence: str, home: Path) -> None:
    run_command("id")
    shown = on_a_terminal("id", columns=columns, **variables)
    assert sentence in " ".join(without_colours(shown)).replace("  ", " ")
    assert "█" not in shown
    assert done().splitlines()[0] in "".join(without_colours(shown))


def test_a_code_has_a_white_edge_and_the_three_corners() -> None:
    code = qr_lines("str:alice")
    assert code is not None
    assert len({len(line) for line in code}) == 1
    assert set(code[0]) == {" "}
    assert all(line.startswith("  ") and line.endswith("  ") for line in code)
    assert code[1].startswith("  █▀▀▀▀▀█ ")
    assert code[1].endswith(" █▀▀▀▀▀█  ")


@posix
def test_without_the_package_for_codes_the_text_is_shown_and_what_to_install(home: Path) -> None:
    run_command("id")
    code = (
        "import sys; sys.modules['segno'] = None; import peergram.cli.qr as qr; qr.on_terminal = lambda: True; "
        "print(qr.show_qr('str:alice'))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=30, check=True)
    assert told.stdout == f"A QR code needs segno: {sys.executable} -m pip install segno\n"
