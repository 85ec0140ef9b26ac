"""The file that tells the next run which calls died with this one."""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path

import pytest

from peergram.config import REMEMBERED_CALLS_MAX, REMEMBERED_FILE_BYTES_MAX, REMEMBERED_FILES_MAX
from peergram.drivers.call_memory import CallMemory, state_folder
from peergram.identity import Identity
from peergram.io_requests import CallNote

ALICE, BOB, CAROL = (Identity.of(name) for name in ("alice", "bob", "carol"))
posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions and fork as on POSIX systems")


def begun(peer: Identity, connection_id: int) -> CallNote:
    return CallNote(peer, connection_id, is_live=True)


def over(peer: Identity, connection_id: int) -> CallNote:
    return CallNote(peer, connection_id, is_live=False)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def killed(folder: Path, *notes: CallNote, identity: Identity = ALICE) -> CallMemory:
    """A run that wrote these and ended without a word: the system lets go of what it held."""
    memory = CallMemory(identity, folder)
    for note in notes:
        memory.note(note)
    memory.abandon()
    return memory


def test_what_was_live_when_a_run_was_killed_is_known_to_the_next(tmp_path: Path) -> None:
    odd = Identity.of("str:a name, with spaces\u00e9+")
    killed(tmp_path, begun(BOB, 5), begun(odd, 6), begun(CAROL, 7), over(CAROL, 7))
    assert CallMemory(ALICE, tmp_path).remembered == [(BOB, 5), (odd, 6)]


def test_what_is_not_dealt_with_is_known_to_the_run_after_that_too(tmp_path: Path) -> None:
    killed(tmp_path, begun(BOB, 5), begun(CAROL, 6))
    killed(tmp_path, over(BOB, 5))
    assert CallMemory(ALICE, tmp_path).remembered == [(CAROL, 6)]
    assert len(files(tmp_path)) == 1


def test_nothing_is_written_before_there_is_something_and_nothing_stays_after_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    memory = CallMemory(ALICE, folder)
    assert files(folder) == []
    memory.note(begun(BOB, 5))
    assert len(files(folder)) == 1
    memory.close()
    memory.close()
    assert files(folder) == []
    memory.note(begun(BOB, 6))
    assert files(folder) == []


def test_calls_of_a_run_that_lives_and_of_other_identities_are_left_alone(tmp_path: Path) -> None:
    living = CallMemory(ALICE, tmp_path)
    living.note(begun(BOB, 5))
    killed(tmp_path, begun(CAROL, 6), identity=BOB)
    twin = CallMemory(ALICE, tmp_path)
    assert twin.remembered == []
    twin.note(begun(CAROL, 7))
    twin.close()
    living.note(begun(CAROL, 8))
    living.abandon()
    assert CallMemory(ALICE, tmp_path).remembered == [(BOB, 5), (CAROL, 8)]
    assert CallMemory(BOB, tmp_path).remembered == [(CAROL, 6)]


@posix
def test_only_the_user_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    CallMemory(ALICE, folder).note(begun(BOB, 5))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(folder)] == [0o600]
    assert "alice" not in files(folder)[0].name


@pytest.mark.parametrize("content", [b"", b"\x00" * 5_000, os.urandom(3_000), b"peergram calls 2\n+ 5 str:bob\n"])
def test_a_file_that_is_none_is_ignored(content: bytes, tmp_path: Path) -> None:
    killed(tmp_path, begun(BOB, 5))
    files(tmp_path)[0].write_bytes(content)
    assert CallMemory(ALICE, tmp_path).remembered == []
    assert files(tmp_path) == []


def test_lines_that_cannot_be_read_cost_only_themselves(tmp_path: Path) -> None:
    killed(tmp_path, begun(BOB, 5))
    with files(tmp_path)[0].open("ab") as file:
        file.write(
            b"+ 4294967296 str:bob\n+ 0 str:bob\n+ x str:bob\n+ 7\n\n? 8 str:bob\n+ 9 \xff\xfe\n- x\n+ 6 str:carol\n+ 10 str:da"
        )
    assert CallMemory(ALICE, tmp_path).remembered == [(BOB, 5), (CAROL, 6)]


def test_a_folder_that_cannot_be_used_is_said_once_and_nothing_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    memory = CallMemory(ALICE, blocked / "state")
    with caplog.at_level(logging.WARNING):
        for number in range(1, 10):
            memory.note(begun(BOB, number))
    assert len(caplog.records) == 1
    memory.close()


def test_a_long_run_does_not_let_its_file_grow(tmp_path: Path) -> None:
    memory = CallMemory(ALICE, tmp_path)
    memory.note(begun(CAROL, 1))
    for number in range(2, 20_000):
        memory.note(begun(BOB, number))
        memory.note(over(BOB, number))
    [file] = files(tmp_path)
    assert file.stat().st_size <= REMEMBERED_FILE_BYTES_MAX
    memory.abandon()
    assert CallMemory(ALICE, tmp_path).remembered == [(CAROL, 1)]


def test_no_more_calls_are_kept_than_may_be(tmp_path: Path) -> None:
    killed(tmp_path, *(begun(BOB, number) for number in range(1, REMEMBERED_CALLS_MAX + 50)))
    assert len(CallMemory(ALICE, tmp_path).remembered) == REMEMBERED_CALLS_MAX


def test_only_so_many_files_are_looked_at(tmp_path: Path) -> None:
    killed(tmp_path, begun(BOB, 5))
    [file] = files(tmp_path)
    prefix = file.name.partition("-")[0]
    file.rename(tmp_path / f"{prefix}-last.calls")
    for number in range(REMEMBERED_FILES_MAX):
        (tmp_path / f"{prefix}-{number:04}.calls").write_bytes(b"filler")
    assert CallMemory(ALICE, tmp_path).remembered == []


@posix
def test_a_forked_child_neither_writes_nor_deletes_it_nor_lets_go_of_it(tmp_path: Path) -> None:
    memory = CallMemory(ALICE, tmp_path)
    memory.note(begun(BOB, 5))
    child = os.fork()
    if not child:
        memory.abandon()
        memory.note(begun(CAROL, 6))
        memory.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert CallMemory(ALICE, tmp_path).remembered == []
    memory.abandon()
    assert CallMemory(ALICE, tmp_path).remembered == [(BOB, 5)]


@pytest.mark.skipif(sys.platform != "linux", reason="where other systems keep it is theirs")
def test_the_folder_is_the_systems_one_for_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    assert state_folder() == Path("/somewhere/state/peergram")
    monkeypatch.setenv("XDG_STATE_HOME", "not absolute")
    assert state_folder() == Path.home() / ".local/state/peergram"
