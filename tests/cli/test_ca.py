"""`peergram ca` as a user meets it."""

from __future__ import annotations

import re
import shlex
import stat
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from peergram.cli.run import run
from peergram.crypto.key_text import write_private_key
from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.drivers.authority_files import load_authorities, open_authority

from .commands import ROOT, run_command

KEY = SigningKey(b"\x07" * 32)


def run_here(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """In this process, which is faster: the exit code, and what was said on both outputs."""
    said, complained = StringIO(), StringIO()
    with chdir(cwd), redirect_stdout(said), redirect_stderr(complained):
        code = run(arguments)
    return code, said.getvalue(), complained.getvalue()


def ok(*arguments: str, cwd: Path) -> str:
    code, said, complained = run_here(*arguments, cwd=cwd)
    assert (code, complained) == (0, "")
    return said


def fails(*arguments: str, cwd: Path) -> str:
    code, _, complained = run_here(*arguments, cwd=cwd)
    assert (code, complained.count("\n")) == (2, 1)
    return complained


def test_as_a_process_it_says_and_does_the_same(tmp_path: Path) -> None:
    assert run_command("ca", "init", cwd=tmp_path).returncode == 0
    issued = run_command("cert", "issue", "--identity", "alice", "--new-key", "--out", "alice.cert", cwd=tmp_path)
    assert (issued.returncode, issued.stderr) == (0, "")
    shown = run_command("cert", "inspect", "alice.cert", "--authority", "authority", cwd=tmp_path)
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "Valid.")


def test_the_short_way_of_the_documentation_leads_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "alice.key").write_text(write_private_key(KEY))
    (commands,) = re.findall(r"## The short way\n\n```\n(.*?)```", (ROOT / "docs/authority.md").read_text(), re.DOTALL)
    said = ""
    for command in commands.splitlines():
        name, *arguments = shlex.split(command, comments=True)
        assert name == "peergram"
        said = ok(*arguments, cwd=tmp_path)
    assert said.endswith("\nValid.\n")


def test_an_authority_is_made_and_its_private_key_not_shown(tmp_path: Path) -> None:
    told = ok("ca", "init", "--comment", "the \x1b[31m club", cwd=tmp_path)
    made = open_authority(tmp_path / "authority")
    assert fingerprint(made.key.public_bytes) in told
    assert "Give authority/authority.txt to all" in told
    assert made.public.roots[0][1] == f"the \x1b[31m club ID{key_id(made.key.public_bytes)}"
    secret = (made.folder / "authority.key").read_text().splitlines()[1]
    assert secret not in told
    if sys.platform != "win32":
        assert stat.S_IMODE((made.folder / "authority.key").stat().st_mode) == 0o600
    shown = ok("ca", "show", cwd=tmp_path)
    assert "\x1b" not in shown
    assert f"root       {fingerprint(made.key.public_bytes)} the" in shown
    assert "there is an authority in 'authority' already" in fails("ca", "init", cwd=tmp_path)


def test_a_key_of_ssh_keygen_can_be_an_authority(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(write_private_key(KEY))
    (tmp_path / "key").chmod(0o600)
    ok("ca", "init", "club", "--key", "key", cwd=tmp_path)
    assert open_authority(tmp_path / "club").key.public_bytes == KEY.public_bytes
    (tmp_path / "key").chmod(0o644)
    if sys.platform != "win32":
        assert "chmod 600 key" in fails("ca", "init", "other", "--key", "key", cwd=tmp_path)


def test_one_authority_works_in_the_name_of_another(tmp_path: Path) -> None:
    ok("ca", "init", "top", cwd=tmp_path)
    told = ok("ca", "intermediate", "--ca", "top", "--out", "sub", "--app", "0", "--app", "7", "--days", "90", cwd=tmp_path)
    assert "for apps 0, 7" in told
    ok("ca", "intermediate", "--ca", "sub", "--out", "subsub", "--app", "7", "--days", "30", cwd=tmp_path)
    top, sub, subsub = (open_authority(tmp_path / name) for name in ("top", "sub", "subsub"))
    assert sub.scope.app_ids == frozenset({0, 7})
    assert subsub.scope.app_ids == frozenset({7})
    store = load_authorities(tmp_path / "subsub")
    assert store.root_ids == {key_id(top.key.public_bytes)}
    assert store.key_ids == {key_id(each.key.public_bytes) for each in (top, sub, subsub)}
    shown = ok("ca", "show", "subsub/authority.txt", cwd=tmp_path)
    assert [line.split()[0] for line in shown.splitlines()] == ["root", "authority", "authority"]
    assert (tmp_path / "sub" / "issued.txt").read_text().count("(an authority)") == 1


def test_an_authority_cannot_exceed_the_one_above(tmp_path: Path) -> None:
    ok("ca", "init", "top", cwd=tmp_path)
    ok("ca", "intermediate", "--ca", "top", "--out", "sub", "--app", "7", "--days", "90", cwd=tmp_path)
    deeper = ("ca", "intermediate", "--ca", "sub", "--out", "x")
    assert "may not vouch for app id 8, only for 7" in fails(*deeper, "--app", "8", "--days", "30", cwd=tmp_path)
    assert "would outlast the authority's own certificate" in fails(*deeper, "--days", "91", cwd=tmp_path)
    assert not (tmp_path / "x").exists()


def test_what_is_revoked_is_shown_and_a_revoked_authority_stops(tmp_path: Path) -> None:
    ok("ca", "init", "top", cwd=tmp_path)
    ok("ca", "intermediate", "--ca", "top", "--out", "sub", cwd=tmp_path)
    sub = fingerprint(open_authority(tmp_path / "sub").key.public_bytes)
    ok("cert", "revoke", sub, "--ca", "top", "--reason", "stolen", cwd=tmp_path)
    assert "stolen" in ok("ca", "show", "top", cwd=tmp_path)
    both = load_authorities([tmp_path / "top", tmp_path / "sub"])
    assert both.scope_of(key_id(open_authority(tmp_path / "sub").key.public_bytes)) == "Revoked"
    (tmp_path / "only").write_text(f"{sub}\n")
    assert "There is no root in it" in ok("ca", "show", "only", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ca", "intermediate", "--out", "x"], "there is no authority in 'authority': 'peergram ca init authority' makes one"),
        (["ca", "intermediate"], "--out"),
        (["ca", "init", "x", "--key", "absent"], "key 'absent': it cannot be read"),
        (["ca", "init", "file/x"], "cannot be made"),
        (["ca", "show", "file"], "authorities in 'file': line 1: neither a root"),
        (["ca", "show"], "authorities in 'authority': it cannot be read"),
        (["ca", "intermediate", "--out", "x", "--days", "0"], "1<=x<=36500"),
        (["ca", "intermediate", "--out", "x", "--app", "-1"], "0<=x<=4294967295"),
        (["ca", "sign"], "peergram ca --help"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "file").write_text("x")
    assert says in fails(*arguments, cwd=tmp_path)
