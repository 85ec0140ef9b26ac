"""`peergram known` as its users run it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from peergram.crypto.keys import fingerprint

from .commands import run_command

ONE, TWO = (fingerprint(bytes([number]) * 32) for number in (1, 2))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEERGRAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(home: Path, text: str) -> Path:
    home.mkdir(mode=0o700, exist_ok=True)
    path = home / "known_peers"
    path.write_text(text)
    path.chmod(0o600)
    return path


def done(*arguments: str) -> str:
    result = run_command("known", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_nobody_is_known_at_first(home: Path) -> None:
    assert done().startswith("Nobody is known yet")
    assert not home.exists()


def test_who_is_known_is_listed_in_columns(home: Path) -> None:
    write(home, f"str:bob {ONE}  2026-11-26  first contact\nstr:bartholomew%1b[31m {TWO} \x1b[2Jodd\nstr:al {ONE}\n")
    assert done().splitlines() == [
        f"str:bob                  {ONE}  2026-11-26  first contact",
        f"str:bartholomew\\x1b[31m  {TWO}  \ufffd[2Jodd",
        f"str:al                   {ONE}",
    ]
    assert done("list") == done()


def test_lines_that_cannot_be_read_are_named_and_the_rest_is_listed(home: Path) -> None:
    write(home, f"str:bob {ONE}\nnonsense\n")
    listed = run_command("known")
    assert listed.returncode == 0
    assert listed.stdout == f"str:bob  {ONE}\n"
    assert "known_peers', line 2: 'nonsense' is not an identity" in listed.stderr
    assert listed.stderr.count("\n") == 1


def test_a_new_key_takes_the_place_of_the_old_one(home: Path) -> None:
    path = write(home, f"# friends\nstr:bob {ONE}  2026-11-26  first contact\n")
    assert done("accept", "bob", TWO) == f"str:bob is known by {TWO} from now on.\nNo longer by {ONE}.\n"
    assert path.read_text().startswith(f"# friends\nstr:bob {TWO}  ")
    assert path.read_text().endswith("accepted by hand\n")
    assert done("accept", "bob", TWO) == f"str:bob is known by {TWO} from now on.\n"


def test_somebody_can_be_known_before_the_first_contact(home: Path) -> None:
    done("accept", "a name", ONE)
    assert done().startswith(f"str:a name  {ONE}  ")


def test_an_address_keeps_no_key(home: Path) -> None:
    refused = run_command("known", "accept", "ip:192.0.2.1:5", ONE)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("ip:192.0.2.1:5 is an address, where others may be tomorrow")
    assert not (home / "known_peers").exists()


def test_who_is_forgotten_is_gone(home: Path) -> None:
    write(home, f"str:bob {ONE}\nstr:bob {TWO}\nstr:carol {ONE}\n")
    assert done("forget", "bob") == "str:bob is forgotten; the next contact counts as the first.\n"
    assert done() == f"str:carol  {ONE}\n"
    again = run_command("known", "forget", "bob")
    assert (again.returncode, again.stdout, again.stderr) == (1, "", "str:bob is not known.\n")


def test_a_file_that_others_may_write_is_refused_with_the_command_to_type(home: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("permissions as on POSIX systems")
    path = write(home, f"str:bob {ONE}\n")
    path.chmod(0o666)
    for arguments in ([], ["accept", "bob", TWO], ["forget", "bob"]):
        refused = run_command("known", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.rstrip().rstrip(".").endswith(f"type: chmod go-w {path}")
    assert path.read_text() == f"str:bob {ONE}\n"


def test_a_home_that_is_no_absolute_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERGRAM_HOME", "home")
    refused = run_command("known")
    assert refused.returncode == 2
    assert "PEERGRAM_HOME must be an absolute path" in refused.stderr
