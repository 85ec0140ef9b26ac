"""The file of known peers: what programs add and people edit, with several at it at once."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import stat
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peergram.config import (
    KNOWN_PEERS_FILE_BYTES_MAX,
    KNOWN_PEERS_LINE_BYTES_MAX,
    KNOWN_PEERS_LOCK_US,
    KNOWN_PEERS_MAX,
    KNOWN_PEERS_PROBLEMS_MAX,
)
from peergram.crypto.keys import fingerprint
from peergram.drivers import known_peers_file
from peergram.drivers.known_peers_file import KnownPeersFile
from peergram.errors import UsageError
from peergram.identity import INVALID, Identity

ALICE, BOB, CAROL = (Identity.of(name) for name in ("alice", "bob", "carol"))
ONE, TWO, THREE = (fingerprint(bytes([number]) * 32) for number in (1, 2, 3))
TODAY = date(2026, 11, 26)
posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions and links as on POSIX systems")


def opened(folder: Path) -> KnownPeersFile:
    return KnownPeersFile(folder / "known_peers", today=lambda: TODAY)


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def written(folder: Path, text: str | bytes, mode: int = 0o600) -> KnownPeersFile:
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "known_peers"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return opened(folder)


def lines(folder: Path) -> list[str]:
    return (folder / "known_peers").read_text().splitlines()


def test_who_was_met_is_known_to_the_next_run(tmp_path: Path) -> None:
    first = opened(tmp_path / "new" / "peergram")
    assert first.entries == []
    assert not (tmp_path / "new").exists()
    odd = Identity.of("str:a name\nwith # and \u00e9 and %20")
    for identity, key in ((BOB, ONE), (odd, TWO), (Identity.parse("steamid:76561197960265729"), THREE)):
        assert first.add(identity, key)
    assert first.entries == opened(tmp_path / "new" / "peergram").entries
    assert [identity for identity, _ in first.entries][:2] == [BOB, odd]


def test_a_line_says_who_by_which_key_when_and_how(tmp_path: Path) -> None:
    peers = opened(tmp_path)
    peers.add(BOB, ONE)
    peers.add(CAROL, TWO, "given by a friend")
    assert lines(tmp_path)[0].startswith("# Peers whose keys are known")
    assert lines(tmp_path)[1:] == [f"str:bob {ONE}  2026-11-26  first contact", f"str:carol {TWO}  2026-11-26  given by a friend"]
    assert [peer.note for peer in opened(tmp_path).peers] == ["2026-11-26  first contact", "2026-11-26  given by a friend"]


@posix
def test_only_the_user_may_read_it(tmp_path: Path) -> None:
    opened(tmp_path / "peergram").add(BOB, ONE)
    assert stat.S_IMODE((tmp_path / "peergram").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "peergram").iterdir()} == {0o600}


def test_what_is_known_is_not_written_twice(tmp_path: Path) -> None:
    peers = opened(tmp_path)
    assert peers.add(BOB, ONE)
    assert peers.add(BOB, ONE)
    assert opened(tmp_path).add(BOB, ONE)
    assert len(lines(tmp_path)) == 2


def test_a_peer_may_have_several_keys_by_hand_but_none_is_added_to_those_he_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    peers = written(tmp_path, f"str:bob {ONE}\nstr:bob {TWO}\n")
    assert peers.entries == [(BOB, ONE), (BOB, TWO)]
    assert not peers.add(BOB, THREE)
    assert peers.entries == [(BOB, ONE), (BOB, TWO)]
    assert "known by another key already" in caplog.text


def test_comments_empty_lines_and_the_hands_of_editors_do_no_harm(tmp_path: Path) -> None:
    text = f"\ufeffstr:bob {ONE}\r\n\r\n# str:carol {TWO}\n   # indented\n\t str:alice\t{TWO}\tmy sister # really\n\n"
    peers = written(tmp_path, text + f"str:bob {ONE} again\n")
    assert peers.entries == [(BOB, ONE), (ALICE, TWO)]
    assert peers.peers[1].note == "my sister # really"
    assert peers.problems == []


@pytest.mark.parametrize(
    ("line", "defect"),
    [
        (b"bob " + ONE.encode(), "'bob' is not an identity: it needs a prefix"),
        (b"str:" + b"x" * 32 + b" " + ONE.encode(), "str: takes 0 to 31 bytes"),
        (b"str:dave", "the fingerprint is missing"),
        (b"str:dave " + ONE.encode()[:-1], "is no fingerprint of a key: SHA256: and 43 more"),
        (b"str:dave " + ONE.encode().lower(), "is no fingerprint"),
        (b"str:dave \xff\xfe\x00", "is no fingerprint"),
        (b"str:dave%00 " + ONE.encode(), "zero byte"),
        (os.urandom(200).replace(b"\n", b"") + b"\x01", "no"),
        (b"str:dave " + ONE.encode() + b" " * KNOWN_PEERS_LINE_BYTES_MAX + b"x", "longer than 1024 bytes"),
    ],
    ids=["no prefix", "long", "alone", "cut", "lower", "bytes", "zero", "random", "endless"],
)
def test_a_bad_line_is_named_and_costs_only_itself(
    line: bytes, defect: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    peers = written(tmp_path, f"str:bob {ONE}\n".encode() + line + f"\nstr:carol {TWO}\n".encode())
    assert peers.entries == [(BOB, ONE), (CAROL, TWO)]
    [problem] = peers.problems
    assert f"known_peers', line 2: {problem.partition('line 2: ')[2]}" in problem
    assert defect in problem
    assert problem.isprintable()
    with caplog.at_level(logging.WARNING):
        peers.add(ALICE, THREE)
        (tmp_path / "known_peers").write_bytes((tmp_path / "known_peers").read_bytes() + b"# more\n")
        assert not peers.reload_if_changed()
    assert caplog.messages.count(problem) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_content_makes_reading_or_writing_fail(tmp_path: Path, content: bytes) -> None:
    peers = written(tmp_path, content)
    assert peers.add(BOB, ONE)
    peers.accept(CAROL, TWO)
    assert peers.forget(BOB) == 1
    again = opened(tmp_path)
    assert (CAROL, TWO) in again.entries
    assert BOB not in [identity for identity, _ in again.entries]
    assert again.entries == peers.entries


@given(st.binary(max_size=31).filter(lambda name: b"\0" not in name))
def test_every_name_is_read_as_it_was_written(name: bytes) -> None:
    identity = Identity.string(name)
    line = known_peers_file._line_of(known_peers_file.KnownPeer(identity, ONE, "note"))
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert known_peers_file._peer_of(line) == known_peers_file.KnownPeer(identity, ONE, "note")


def test_the_longest_identity_fits_a_line(tmp_path: Path) -> None:
    identity = Identity.parse_bytes(b"q:" + b"\xff" * 125)
    opened(tmp_path).add(identity, ONE)
    assert opened(tmp_path).entries == [(identity, ONE)]


def test_a_line_that_was_not_written_to_its_end_does_not_spoil_the_next(tmp_path: Path) -> None:
    peers = written(tmp_path, f"str:bob {ONE}\nstr:carol SHA2")
    assert len(peers.problems) == 1
    peers.add(ALICE, TWO)
    assert opened(tmp_path).entries == [(BOB, ONE), (ALICE, TWO)]
    peers.accept(CAROL, THREE)
    assert opened(tmp_path).entries == [(BOB, ONE), (CAROL, THREE), (ALICE, TWO)]
    assert opened(tmp_path).problems == []


def test_a_disk_that_is_full_leaves_no_half_line_and_the_peer_known_for_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    peers = opened(tmp_path)
    peers.add(BOB, ONE)
    before = lines(tmp_path)
    write = os.write
    calls = []

    def nearly_full(file: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        assert peers.add(CAROL, TWO)
    assert lines(tmp_path) == before
    assert "not remembered for the next run: " in caplog.text
    assert "No space left on device" in caplog.text
    assert peers.entries == [(BOB, ONE), (CAROL, TWO)]
    opened(tmp_path).add(ALICE, THREE)
    assert peers.reload_if_changed()
    assert peers.entries == [(BOB, ONE), (ALICE, THREE), (CAROL, TWO)]


def test_a_folder_that_cannot_be_used_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        opened(tmp_path / "file")
    peers = opened(tmp_path / "peergram")
    (tmp_path / "peergram").write_text("no folder")
    assert peers.add(BOB, ONE)
    assert peers.add(CAROL, TWO)
    assert len(caplog.messages) == 1
    assert peers.entries == [(BOB, ONE), (CAROL, TWO)]
    with pytest.raises(UsageError, match="cannot be written"):
        peers.accept(BOB, TWO)


def test_what_another_program_added_is_seen(tmp_path: Path) -> None:
    ours, other = opened(tmp_path), opened(tmp_path)
    assert not ours.reload_if_changed()
    other.add(BOB, ONE)
    assert ours.reload_if_changed()
    assert not ours.reload_if_changed()
    assert ours.entries == [(BOB, ONE)]


def test_what_another_program_added_is_seen_also_if_we_added_something_in_between(tmp_path: Path) -> None:
    ours, other = opened(tmp_path), opened(tmp_path)
    other.add(BOB, ONE)
    ours.add(CAROL, TWO)
    assert ours.reload_if_changed()
    assert not ours.reload_if_changed()
    assert ours.entries == [(BOB, ONE), (CAROL, TWO)]
    assert not ours.add(BOB, TWO)


def test_what_we_added_ourselves_is_no_news(tmp_path: Path) -> None:
    peers = opened(tmp_path)
    peers.add(BOB, ONE)
    assert not peers.reload_if_changed()


def test_a_file_that_was_deleted_knows_nobody(tmp_path: Path) -> None:
    peers = opened(tmp_path)
    peers.add(BOB, ONE)
    (tmp_path / "known_peers").unlink()
    assert peers.reload_if_changed()
    assert peers.entries == []


def add_many(path: Path, name: str) -> None:
    peers = KnownPeersFile(path)
    for number in range(50):
        peers.add(Identity.of(f"{name}{number}"), ONE)
        if number % 10 == 9:
            peers.forget(Identity.of(f"{name}{number}"))


def test_several_programs_write_it_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    programs = [context.Process(target=add_many, args=(tmp_path / "known_peers", name)) for name in "abc"]
    for program in programs:
        program.start()
    for program in programs:
        program.join(60)
        assert program.exitcode == 0
    peers = opened(tmp_path)
    expected = {f"str:{name}{number}" for name in "abc" for number in range(50) if number % 10 != 9}
    assert {identity.text for identity, _ in peers.entries} == expected
    assert peers.problems == []


def test_a_program_that_stopped_while_writing_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped, peers, third = opened(tmp_path), opened(tmp_path), written(tmp_path, f"str:carol {TWO}\n")
    clock = FakeClock()
    monkeypatch.setattr(known_peers_file, "time", clock)
    with stopped._locked():
        assert peers.add(BOB, ONE)
        assert KNOWN_PEERS_LOCK_US <= clock.now_s * 1_000_000 <= 1.1 * KNOWN_PEERS_LOCK_US
        assert "another program has been at it for too long" in caplog.text
        with pytest.raises(UsageError, match="too long"):
            peers.accept(BOB, ONE)
        with pytest.raises(UsageError, match="too long"):
            third.forget(CAROL)
    assert peers.entries == [(BOB, ONE)]
    peers.accept(BOB, ONE)
    assert opened(tmp_path).entries == peers.entries == [(CAROL, TWO), (BOB, ONE)]


def test_forgetting_takes_every_line_of_a_peer_and_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    text = f"# friends\r\nstr:bob {ONE} old\n\nstr:carol {TWO}   spaced\nstr:%62ob {TWO}\nnonsense\nstr:bob broken\n# end"
    peers = written(tmp_path, text)
    assert peers.forget(BOB) == 3
    assert peers.forget(BOB) == 0
    assert peers.entries == [(CAROL, TWO)]
    assert (tmp_path / "known_peers").read_bytes().decode() == f"# friends\r\n\nstr:carol {TWO}   spaced\nnonsense\n# end"


def test_forgetting_where_there_is_nothing_makes_nothing(tmp_path: Path) -> None:
    assert opened(tmp_path / "new").forget(BOB) == 0
    assert not (tmp_path / "new").exists()


def test_accepting_a_key_replaces_those_before_in_their_place(tmp_path: Path) -> None:
    peers = written(tmp_path, f"# friends\nstr:bob {ONE}\nstr:carol {TWO}\nstr:bob {TWO}\n")
    peers.accept(BOB, THREE)
    assert peers.entries == [(BOB, THREE), (CAROL, TWO)]
    assert lines(tmp_path) == ["# friends", f"str:bob {THREE}  2026-11-26  accepted by hand", f"str:carol {TWO}"]
    peers.accept(ALICE, ONE)
    assert lines(tmp_path)[3:] == [f"str:alice {ONE}  2026-11-26  accepted by hand"]


def test_accepting_makes_a_file_where_there_is_none(tmp_path: Path) -> None:
    opened(tmp_path / "new").accept(BOB, ONE)
    assert opened(tmp_path / "new").entries == [(BOB, ONE)]
    assert lines(tmp_path / "new")[0].startswith("#")


@posix
def test_an_edit_keeps_the_rights_of_the_file(tmp_path: Path) -> None:
    peers = written(tmp_path, f"str:bob {ONE}\n", 0o640)
    peers.accept(BOB, TWO)
    assert stat.S_IMODE((tmp_path / "known_peers").stat().st_mode) == 0o640


@pytest.mark.parametrize("bad", ["", "SHA256:", ONE[:-1], ONE + "=", "x" * 500])
def test_what_is_no_fingerprint_is_refused(bad: str, tmp_path: Path) -> None:
    peers = opened(tmp_path)
    for use in (peers.add, peers.accept):
        with pytest.raises(UsageError, match="is no fingerprint"):
            use(BOB, bad)
        with pytest.raises(UsageError, match="nobody"):
            use(INVALID, ONE)
    assert not (tmp_path / "known_peers").exists()


@posix
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused_with_the_command_to_type(mode: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"others may write the file .*; type: chmod go-w \S*known_peers") as told:
        written(tmp_path, f"str:bob {ONE}\n", mode)
    subprocess.run(["/bin/sh", "-c", str(told.value).partition("type: ")[2]], check=True)
    assert opened(tmp_path).entries == [(BOB, ONE)]


@posix
def test_a_folder_where_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    written(tmp_path / "open", f"str:bob {ONE}\n")
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UsageError, match=r"others may write in the folder .*chmod 700"):
        opened(tmp_path / "open")


@posix
def test_links_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text(f"str:bob {ONE}\n")
    (tmp_path / "known_peers").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match="is a symbolic link"):
        opened(tmp_path)
    (tmp_path / "known_peers").unlink()
    os.mkfifo(tmp_path / "known_peers", 0o600)
    with pytest.raises(UsageError, match="is no ordinary file"):
        opened(tmp_path)
    (tmp_path / "known_peers").unlink()
    (tmp_path / "known_peers").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        opened(tmp_path)


@posix
def test_a_file_that_can_no_longer_be_believed_leaves_who_is_known_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    peers = written(tmp_path, f"str:bob {ONE}\n")
    (tmp_path / "known_peers").write_text(f"str:bob {TWO}\n")
    (tmp_path / "known_peers").chmod(0o666)
    assert not peers.reload_if_changed()
    assert not peers.reload_if_changed()
    assert peers.entries == [(BOB, ONE)]
    assert len(caplog.messages) == 1
    assert "others may write" in caplog.text
    (tmp_path / "known_peers").chmod(0o600)
    assert peers.reload_if_changed()
    assert peers.entries == [(BOB, TWO)]


def test_only_so_many_peers_are_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "".join(f"str:{number} {ONE}\n" for number in range(KNOWN_PEERS_MAX))
    peers = written(tmp_path, text)
    assert len(peers.entries) == KNOWN_PEERS_MAX
    assert peers.problems == []
    assert peers.add(BOB, ONE)
    assert "is full: delete lines" in caplog.text
    assert len(lines(tmp_path)) == KNOWN_PEERS_MAX
    more = written(tmp_path, text + f"str:bob {ONE}\nstr:carol {ONE}\n")
    assert len(more.entries) == KNOWN_PEERS_MAX
    [problem] = more.problems
    assert f"line {KNOWN_PEERS_MAX + 1}: this and what follows is not read" in problem


def test_a_file_never_grows_beyond_what_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    comment = b"# " + b"x" * 997 + b"\n"
    full = comment * (KNOWN_PEERS_FILE_BYTES_MAX // len(comment))
    full += b"#" * (KNOWN_PEERS_FILE_BYTES_MAX - len(full))
    peers = written(tmp_path, full)
    peers.add(BOB, ONE)
    assert "is full" in caplog.text
    with pytest.raises(UsageError, match="is full"):
        peers.accept(BOB, ONE)
    assert (tmp_path / "known_peers").read_bytes() == full
    with pytest.raises(UsageError, match=f"is larger than {KNOWN_PEERS_FILE_BYTES_MAX} bytes"):
        written(tmp_path, full + b"#")


def test_a_file_of_something_else_is_told_in_a_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    peers = written(tmp_path, "something else\n" * 10_000)
    assert len(peers.problems) == len(caplog.messages) == KNOWN_PEERS_PROBLEMS_MAX + 1
    assert "what follows is not read" in peers.problems[-1]
