"""The file of names: what is written is read again, what is damaged costs only itself."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram import config
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.servers.names_file import NamesFile, default_names_file, names_text, parse_names, pause_between_saves_us
from peergram.servers.signaling_core import OwnedName

KEY = bytes(range(32))
SECOND = 1_000_000
USED_AT_US = 1_900_000_000 * SECOND
GOOD_LINE = f"str:alice  {KEY.hex()}  2030-03-17T17:46:40Z  month"
ALICE = OwnedName(Identity.of("alice"), KEY, USED_AT_US, is_proven=True)


def file_with(path: Path, *lines: str | bytes) -> Path:
    lines_ = [line if isinstance(line, bytes) else line.encode() for line in lines]
    path.write_bytes(b"\n".join([b"# peergram names 1", *lines_]) + b"\n")
    return path


# --- there and back ---


def test_a_line_can_be_read_by_people() -> None:
    assert names_text([ALICE]).splitlines()[-1] == GOOD_LINE


@given(
    st.lists(
        st.builds(
            OwnedName,
            st.one_of(
                st.binary(max_size=31).filter(lambda name: b"\0" not in name).map(Identity.string),
                st.binary(min_size=1, max_size=31).map(Identity.generic_bytes),
                st.integers(0, (1 << 64) - 1).map(Identity.psn),
                st.text("~!#%\t\v\x1c\x85\u2028 é", max_size=8).map(Identity.string),
            ),
            st.binary(min_size=32, max_size=32),
            st.integers(0, 100_000_000_000).map(lambda second: second * SECOND),
            st.booleans(),
        ),
        unique_by=lambda each: each.identity,
    )
)
def test_what_is_written_is_read_again(names: list[OwnedName]) -> None:
    read, complaints = parse_names(names_text(names).encode(), "names.txt")
    assert complaints == []
    assert sorted(read, key=str) == sorted(names, key=str)


def test_a_line_may_be_written_by_hand() -> None:
    read, complaints = parse_names(f"str:alice {KEY.hex().upper()} 2030-03-17\r\n\r\n # a remark\r\n".encode(), "names.txt")
    assert complaints == []
    assert [(each.identity, each.public_key, each.is_proven) for each in read] == [(ALICE.identity, KEY, True)]


def test_names_outlast_the_file_that_held_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "names.txt"
    file = NamesFile(path)
    assert file.names == []
    file.save([ALICE])
    file.save([ALICE, OwnedName(Identity.of("bob"), KEY, USED_AT_US, is_proven=False)])
    file.close()
    again = NamesFile(path)
    assert [str(each.identity) for each in again.names] == ["str:alice", "str:bob"]
    again.close()
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(each.name for each in path.parent.iterdir()) == ["names.txt", "names.txt.lock"]


def test_the_default_file_is_in_the_users_folder_for_state_or_the_one_that_is_given(tmp_path: Path) -> None:
    assert default_names_file(tmp_path) == tmp_path / "names.txt"
    default = default_names_file()
    assert default is not None
    assert default.parts[-3:] == ("peergram", "serve", "names.txt")


# --- damage ---


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("str:bob", "it is not a name, a key"),
        (GOOD_LINE.replace("alice", "bob") + " more", "it is not a name, a key"),
        (GOOD_LINE.replace("str:alice", "Bob:"), "prefix"),
        (GOOD_LINE.replace("str:alice", "str:" + "b" * 32), "31 bytes"),
        (GOOD_LINE.replace("str:alice", "ip:192.0.2.1"), "no name that others can call"),
        (GOOD_LINE.replace("str:alice", f"gen:{KEY.hex()}"), "belongs to nobody else"),
        (GOOD_LINE.replace("alice", "bob").replace("00", "0", 1), "64 hexadecimal digits"),
        (GOOD_LINE.replace("alice", "bob").replace("00", "0x", 1), "64 hexadecimal digits"),
        (GOOD_LINE.replace("alice", "bob").replace("-03-", "-13-"), "its date"),
        (GOOD_LINE.replace("alice", "bob").replace("month", "year"), "its last word"),
        (b"\xff\xfe " + b"\xff" * 70 + b" \xff", "prefix"),
        (GOOD_LINE, "there already"),
    ],
)
def test_a_bad_line_is_named_and_all_others_count(tmp_path: Path, line: str | bytes, why: str) -> None:
    path = file_with(tmp_path / "names.txt", GOOD_LINE, line, GOOD_LINE.replace("alice", "carol"))
    before = path.read_bytes()
    file = NamesFile(path)
    assert [str(each.identity) for each in file.names] == ["str:alice", "str:carol"]
    (complaint,) = file.complaints
    assert complaint.startswith(f"Line 3 of {path} is left out: ")
    assert why in complaint
    assert complaint.isprintable()
    file.save(file.names)
    file.close()
    assert (tmp_path / "names.txt.bad").read_bytes() == before
    assert NamesFile(path).complaints == []


def test_of_many_bad_lines_a_few_are_named_and_the_others_counted(tmp_path: Path) -> None:
    path = file_with(tmp_path / "names.txt", *["nonsense"] * 100)
    file = NamesFile(path)
    assert len(file.complaints) == config.SERVER_NAMES_COMPLAINTS_MAX + 1
    assert file.complaints[-1] == f"{100 - config.SERVER_NAMES_COMPLAINTS_MAX} more of its lines are left out."
    file.close()


def test_a_damaged_file_never_raises_and_loses_only_lines_that_are_hit() -> None:
    rng = Random(3)
    names = [OwnedName(Identity.of(f"name{number}"), rng.randbytes(32), USED_AT_US, is_proven=True) for number in range(50)]
    text = names_text(names).encode()
    for _ in range(1_000):
        damaged = bytearray(text)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        read, _ = parse_names(bytes(damaged[: rng.randrange(len(damaged) * 9 // 10, len(damaged) + 1)]), "names.txt")
        assert len(set(read) & set(names)) >= 50 * 9 // 10 - 5 * 2 - 1
        parse_names(rng.randbytes(200), "names.txt")


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + bytes(100), b"root:x:0:0:root:/root:/bin/sh\n", bytes(config.SERVER_NAMES_FILE_BYTES_MAX + 1)],
    ids=["picture", "other text", "too large"],
)
def test_what_is_no_file_of_names_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is no file of names"):
        NamesFile(path)
    assert path.read_bytes() == content


def test_what_cannot_be_read_or_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "names.txt"):
        with pytest.raises(UsageError, match="cannot be kept in"):
            NamesFile(path)


def test_two_servers_never_share_a_file(tmp_path: Path) -> None:
    first = NamesFile(tmp_path / "names.txt")
    with pytest.raises(UsageError, match="another server that runs"):
        NamesFile(tmp_path / "names.txt")
    first.close()
    NamesFile(tmp_path / "names.txt").close()


# --- writing ---


def test_a_save_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = NamesFile(tmp_path / "names.txt")
    file.save([ALICE])
    before = file.path.read_bytes()
    (tmp_path / "names.txt.new").mkdir()
    with pytest.raises(OSError, match=r"names\.txt\.new"):
        file.save([])
    assert file.path.read_bytes() == before
    (tmp_path / "names.txt.new").rmdir()
    file.save([])
    assert file.path.read_bytes() != before
    file.close()


def test_what_a_crash_left_half_written_is_never_read(tmp_path: Path) -> None:
    file = NamesFile(tmp_path / "names.txt")
    file.save([ALICE])
    file.close()
    (tmp_path / "names.txt.new").write_bytes(b"# peergram names 1\nstr:al")
    again = NamesFile(tmp_path / "names.txt")
    assert again.names == [ALICE]
    again.save(again.names)
    again.close()
    assert not (tmp_path / "names.txt.new").exists()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "names.txt").symlink_to(tmp_path / "real.txt")
    file = NamesFile(tmp_path / "names.txt")
    file.save([ALICE])
    file.close()
    assert (tmp_path / "names.txt").is_symlink()
    assert b"str:alice" in (tmp_path / "real.txt").read_bytes()


def test_saving_takes_little_of_the_time_and_failing_even_less() -> None:
    assert pause_between_saves_us(0) == config.SERVER_NAMES_SAVE_US
    assert pause_between_saves_us(SECOND) == config.SERVER_NAMES_SAVE_SHARE * SECOND
    assert pause_between_saves_us(None) == config.SERVER_NAMES_SAVE_RETRY_US


@pytest.mark.skipif(sys.platform == "win32", reason="locks are others there")
def test_names_are_kept_also_where_the_file_system_knows_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    file = NamesFile(tmp_path / "names.txt")
    file.save([ALICE])
    file.close()
    assert (tmp_path / "names.txt").exists()
