"""Keys in files: made, found, held by one program at a time; and what is wrong with a file is said before it is believed."""

from __future__ import annotations

import base64
import errno
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import KEY_FILE_BYTES_MAX, KEY_FILES_DEFAULT_MAX, KEY_FILES_LISTED_MAX
from peergram.crypto.keys import SigningKey
from peergram.drivers import key_files, private_files
from peergram.drivers.config_folder import config_folder
from peergram.drivers.key_files import (
    HeldKey,
    hold_key_of,
    key_from_environment,
    key_path,
    list_keys,
    load_key,
    make_key,
    read_key,
)
from peergram.errors import IdentityInUseError, UsageError
from peergram.identity import INVALID, Identity

ALICE, BOB = Identity.of("alice"), Identity.of("bob")
SECRET = bytes(range(1, 33))
KEY = SigningKey(SECRET)
posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions, links and fork as on POSIX systems")


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PEERGRAM_HOME", "PEERGRAM_KEY", "PEERGRAM_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def nothing_stays_held() -> Iterator[None]:
    yield
    key_files._release_all()


def put(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def shows_the_secret(text: str) -> bool:
    pem_line = KEY.to_pem().splitlines()[1].decode()
    return any(
        form in text
        for form in (SECRET.hex(), SECRET.hex().upper(), base64.b64encode(SECRET).decode(), pem_line, repr(SECRET)[2:-1])
    )


def test_a_key_is_made_on_first_use_and_is_the_same_ever_after(tmp_path: Path) -> None:
    first = hold_key_of(ALICE, tmp_path / "peergram")
    first.release()
    again = hold_key_of(ALICE, tmp_path / "peergram")
    assert again.key.public_bytes == first.key.public_bytes
    assert again.path == first.path == tmp_path / "peergram/keys/str%3aalice.key"
    assert names(tmp_path / "peergram/keys") == ["str%3aalice.key"]


def test_each_identity_has_a_key_of_its_own(tmp_path: Path) -> None:
    held = [hold_key_of(who, tmp_path) for who in (ALICE, BOB, None)]
    assert len({one.key.public_bytes for one in held}) == 3


@posix
def test_only_the_user_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        held = hold_key_of(None, tmp_path / "new" / "peergram")
    finally:
        os.umask(before)
    assert held.path is not None
    assert stat.S_IMODE(held.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(held.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(held.path.parent.parent.stat().st_mode) == 0o700


def test_a_name_in_use_is_refused_until_it_is_released(tmp_path: Path) -> None:
    held = hold_key_of(ALICE, tmp_path)
    with pytest.raises(IdentityInUseError, match=r"str:alice is in use by another program .* or use another name"):
        hold_key_of(ALICE, tmp_path)
    held.release()
    held.release()
    assert hold_key_of(ALICE, tmp_path).key.public_bytes == held.key.public_bytes


def test_programs_without_a_name_get_a_key_each_up_to_sixteen(tmp_path: Path) -> None:
    held = [hold_key_of(None, tmp_path) for _ in range(KEY_FILES_DEFAULT_MAX)]
    assert [one.path.name for one in held[:3] if one.path] == ["default.key", "default-2.key", "default-3.key"]
    assert len({one.key.public_bytes for one in held}) == KEY_FILES_DEFAULT_MAX == 16
    with pytest.raises(IdentityInUseError, match=r"all 16 keys .* give this one a name"):
        hold_key_of(None, tmp_path)
    held[4].release()
    assert hold_key_of(None, tmp_path).key.public_bytes == held[4].key.public_bytes


def test_an_identity_that_is_a_key_is_held_with_that_key(tmp_path: Path) -> None:
    for _ in range(3):
        made = hold_key_of(None, tmp_path)
    made.release()
    identity = Identity.generic_bytes(made.key.public_bytes)
    assert hold_key_of(identity, tmp_path).path == made.path
    with pytest.raises(IdentityInUseError, match="gen:"):
        hold_key_of(identity, tmp_path)


def test_an_identity_that_is_a_key_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no other can prove this identity"):
        hold_key_of(Identity.generic_bytes(KEY.public_bytes), tmp_path)
    assert names(tmp_path / "keys") == []


def test_nobody_has_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        hold_key_of(INVALID, tmp_path)


def test_many_who_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    seen: list[bytes] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        for _ in range(20):
            try:
                held = hold_key_of(ALICE, tmp_path)
            except IdentityInUseError:
                continue
            seen.append(held.key.public_bytes)
            held.release()

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen
    assert len(set(seen)) == 1
    assert names(tmp_path / "keys") == ["str%3aalice.key"]


def test_another_program_is_seen_and_its_death_frees_the_name(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from peergram.drivers.key_files import hold_key_of; from peergram.identity import Identity; "
        "print(hold_key_of(Identity.of('alice'), pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert "HeldKey" in program.stdout.readline()
        with pytest.raises(IdentityInUseError):
            hold_key_of(ALICE, tmp_path)
        program.kill()
    hold_key_of(ALICE, tmp_path)


@posix
def test_a_forked_child_neither_lets_go_of_it_nor_holds_it_beyond_its_parent(tmp_path: Path) -> None:
    held = hold_key_of(ALICE, tmp_path)
    to_parent, from_child = os.pipe()
    wait, go_on = os.pipe()
    child = os.fork()
    if not child:
        os.close(go_on)
        held.release()
        os.write(from_child, b"!")
        os.read(wait, 1)
        os._exit(0)
    os.close(wait)
    try:
        os.read(to_parent, 1)
        with pytest.raises(IdentityInUseError):
            hold_key_of(ALICE, tmp_path)
        held.release()
        # The child lives.
        hold_key_of(ALICE, tmp_path).release()
    finally:
        os.close(go_on)
        os.waitpid(child, 0)
        os.close(to_parent)
        os.close(from_child)


@posix
def test_a_program_started_from_ours_does_not_hold_it(tmp_path: Path) -> None:
    held = hold_key_of(ALICE, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        other.stdout.readline()
        held.release()
        hold_key_of(ALICE, tmp_path)
        other.kill()


@posix
def test_it_can_be_held_where_the_file_system_knows_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    hold_key_of(ALICE, tmp_path)


def test_keys_are_made_where_the_file_system_knows_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    made = hold_key_of(ALICE, tmp_path)
    made.release()
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "keys/str%3aalice.key")
    assert make_key(tmp_path / "keys/str%3aalice.key", replace=True) == tmp_path / "keys/str%3aalice.key.old"
    assert read_key(tmp_path / "keys/str%3aalice.key.old").public_bytes == made.key.public_bytes
    assert names(tmp_path / "keys") == ["str%3aalice.key", "str%3aalice.key.old"]


@posix
def test_a_file_that_may_only_be_read_is_held_too(tmp_path: Path) -> None:
    put(tmp_path / "keys/str%3aalice.key", KEY.to_pem(), 0o400)
    assert hold_key_of(ALICE, tmp_path).key.public_bytes == KEY.public_bytes
    with pytest.raises(IdentityInUseError):
        hold_key_of(ALICE, tmp_path)


def test_a_folder_that_cannot_be_used_is_named_with_ways_out(tmp_path: Path) -> None:
    blocked = put(tmp_path / "file", b"not a folder")
    with pytest.raises(UsageError, match=r"file.* cannot be kept: .*PEERGRAM_HOME.*PEERGRAM_KEY_FILE"):
        hold_key_of(ALICE, blocked)


@posix
def test_a_folder_where_others_may_write_is_refused_with_the_command_to_type(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(0o770)
    with pytest.raises(UsageError, match=r"others may write in the folder .*type: chmod 700 .*keys"):
        hold_key_of(ALICE, tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UsageError, match=r"others may write in the folder .*open"):
        make_key(key_path(ALICE, tmp_path / "open"))
    # As /tmp: others may write, but not touch what is ours.
    (tmp_path / "keys").chmod(0o1777)
    hold_key_of(ALICE, tmp_path)


@given(
    st.binary(max_size=31).filter(lambda name: b"\0" not in name),
    st.binary(max_size=31).filter(lambda name: b"\0" not in name),
)
def test_no_two_names_share_a_file_even_where_capitals_count_for_nothing(one: bytes, other: bytes) -> None:
    folder = Path("folder")
    paths = [key_path(Identity.string(name), folder) for name in (one, other)]
    assert (paths[0].name.lower() == paths[1].name.lower()) == (one == other)
    assert all(path.parent == folder / "keys" and len(path.name.encode()) <= 220 for path in paths)
    assert not any(path.name.startswith((".", "default")) for path in paths)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("alice", "str%3aalice.key"),
        ("Alice", "str%3a%41lice.key"),
        ("a/../b", "str%3aa%2f..%2fb.key"),
        ("é ", "str%3a%c3%a9%20.key"),
        ("steamid:76561197960265729", "steamid%3a76561197960265729.key"),
        ("default", "str%3adefault.key"),
    ],
)
def test_a_file_bears_the_name_of_its_identity(name: str, file: str, tmp_path: Path) -> None:
    hold_key_of(Identity.of(name), tmp_path)
    assert names(tmp_path / "keys") == [file]
    assert [found.identity for found in list_keys(tmp_path)] == [Identity.of(name)]


def test_a_name_that_is_too_long_for_a_file_is_shortened_and_stays_apart(tmp_path: Path) -> None:
    held = [hold_key_of(Identity.parse("q:" + "\u4e00" * 41 + end), tmp_path) for end in "ab"]
    assert held[0].key.public_bytes != held[1].key.public_bytes
    assert all(one.path is not None and len(one.path.name) < 100 for one in held)


BAD_CONTENTS = [
    (b"", "is empty"),
    (b"\n \n", "is empty"),
    (b"x" * (KEY_FILE_BYTES_MAX + 1), f"is larger than {KEY_FILE_BYTES_MAX} bytes"),
    (SECRET, "holds no key"),
    (SECRET.hex().encode(), "holds no key"),
    (os.urandom(500), "holds no key"),
    (KEY.to_pem()[:70], "is damaged"),
    (KEY.to_pem().replace(b"M", b"N", 1), "is damaged"),
    (KEY.to_pem() + KEY.to_pem(), "more than one"),
    (generate_ec(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "another kind .*ECPrivateKey"),
    (generate_ec(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()), "holds no key"),
    (
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        "OpenSSH's own format",
    ),
    (
        Ed25519PrivateKey.from_private_bytes(SECRET).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
        ),
        "behind a password",
    ),
    (
        Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "holds a public key; the private one is needed",
    ),
    (b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n", "holds a certificate"),
]


@pytest.mark.parametrize(("content", "defect"), BAD_CONTENTS, ids=[defect for _, defect in BAD_CONTENTS])
def test_a_file_that_is_no_key_is_named_with_what_is_wrong_with_it(content: bytes, defect: str, tmp_path: Path) -> None:
    path = put(tmp_path / "keys/str%3aalice.key", content)
    for use in (lambda: hold_key_of(ALICE, tmp_path), lambda: load_key(path), lambda: read_key(path)):
        with pytest.raises(UsageError, match=rf"str%3aalice\.key'.*{defect}") as told:
            use()
        assert not shows_the_secret(str(told.value))
        assert told.value.__context__ is None or told.value.__suppress_context__
    assert path.read_bytes() == content
    assert path.stat().st_size == len(content)


def test_the_largest_file_that_is_read_may_hold_a_key(tmp_path: Path) -> None:
    pem = KEY.to_pem()
    path = put(tmp_path / "a.key", b"#" * (KEY_FILE_BYTES_MAX - len(pem) - 1) + b"\n" + pem)
    assert load_key(path).public_bytes == KEY.public_bytes


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o611, 0o666])
def test_a_file_that_others_may_use_is_refused_with_the_command_to_type(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "my folder"
    path = put(folder / "keys/str%3aalice.key", KEY.to_pem(), mode)
    for use in (lambda: hold_key_of(ALICE, folder), lambda: load_key(str(path)), lambda: read_key(path)):
        with pytest.raises(UsageError, match=r"others may use the key .*; type: chmod 600 '.*str%3aalice\.key'"):
            use()
    subprocess.run(["/bin/sh", "-c", f"chmod 600 '{path}'"], check=True)
    assert hold_key_of(ALICE, folder).key.public_bytes == KEY.public_bytes


@posix
@posix
def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "keys/str%3aalice.key", KEY.to_pem())
    hold_key_of(ALICE, tmp_path).release()
    if os.geteuid() == 0:
        # What belongs to root is believed.
        os.chown(path, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 12346)
    with pytest.raises(UsageError, match=r"alice\.key' belongs to another user|keys' belongs to another user"):
        hold_key_of(ALICE, tmp_path)


@posix
def test_a_link_in_the_folder_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    target = put(tmp_path / "elsewhere.key", KEY.to_pem())
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys/str%3aalice.key").symlink_to(target)
    for use in (
        lambda: hold_key_of(ALICE, tmp_path),
        lambda: make_key(tmp_path / "keys/str%3aalice.key", replace=True),
        lambda: read_key(tmp_path / "keys/str%3aalice.key"),
    ):
        with pytest.raises(UsageError, match="is a symbolic link"):
            use()
    assert target.read_bytes() == KEY.to_pem()


@posix
def test_no_key_is_written_through_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys/str%3aalice.key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "keys/str%3aalice.key")
    with pytest.raises(UsageError):
        hold_key_of(ALICE, tmp_path)
    assert not (tmp_path / "nowhere").exists()


@posix
def test_a_link_that_the_user_names_is_followed(tmp_path: Path) -> None:
    put(tmp_path / "a.key", KEY.to_pem())
    (tmp_path / "link").symlink_to(tmp_path / "a.key")
    assert load_key(tmp_path / "link").public_bytes == KEY.public_bytes


@posix
def test_folders_pipes_and_devices_are_no_keys(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, defect in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is no ordinary file"), ("/dev/zero", "no ordinary")):
        with pytest.raises(UsageError, match=defect):
            load_key(path)


@posix
def test_a_file_that_cannot_be_opened_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    put(tmp_path / "keys/str%3aalice.key", KEY.to_pem())
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        with pytest.raises(UsageError, match=r"alice\.key' cannot be read: Permission denied"):
            hold_key_of(ALICE, tmp_path)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = key_path(ALICE, tmp_path)
    assert make_key(path, KEY) is None
    with pytest.raises(FileExistsError):
        make_key(path)
    assert read_key(path).public_bytes == KEY.public_bytes


def test_what_is_replaced_is_kept_and_backups_do_not_replace_each_other(tmp_path: Path) -> None:
    path = key_path(None, tmp_path)
    assert make_key(path, KEY, replace=True) is None
    assert make_key(path, replace=True) == tmp_path / "keys/default.key.old"
    second = read_key(path)
    assert make_key(path, replace=True) == tmp_path / "keys/default.key.old-2"
    assert read_key(tmp_path / "keys/default.key.old").public_bytes == KEY.public_bytes
    assert read_key(tmp_path / "keys/default.key.old-2").public_bytes == second.public_bytes
    assert len(list_keys(tmp_path)) == 1
    assert names(tmp_path / "keys") == ["default.key", "default.key.old", "default.key.old-2"]


def test_a_key_in_use_is_not_replaced(tmp_path: Path) -> None:
    held = hold_key_of(ALICE, tmp_path)
    assert held.path is not None
    with pytest.raises(IdentityInUseError):
        make_key(held.path, replace=True)
    assert names(tmp_path / "keys") == ["str%3aalice.key"]
    held.release()
    make_key(held.path, replace=True)
    assert hold_key_of(ALICE, tmp_path).key.public_bytes != held.key.public_bytes


def test_a_file_that_is_no_key_can_be_replaced_and_is_kept(tmp_path: Path) -> None:
    path = put(key_path(ALICE, tmp_path), b"damaged")
    assert make_key(path, KEY, replace=True) == path.with_name("str%3aalice.key.old")
    assert path.with_name("str%3aalice.key.old").read_bytes() == b"damaged"
    assert read_key(path).public_bytes == KEY.public_bytes


@posix
def test_a_backup_of_a_file_that_others_could_read_is_for_the_owner_only(tmp_path: Path) -> None:
    path = put(key_path(ALICE, tmp_path), KEY.to_pem(), 0o644)
    backup = make_key(path, replace=True)
    assert backup is not None
    assert stat.S_IMODE(backup.stat().st_mode) == stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_was_replaced_while_somebody_opened_it_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_path(ALICE, tmp_path)
    make_key(path)

    def opened_too_early(path: Path, what: str, **options: bool) -> int:
        monkeypatch.undo()
        file = private_files.open_private(path, what, forbidden=0)
        make_key(path, KEY, replace=True)
        return file

    monkeypatch.setattr(key_files, "open_private", opened_too_early)
    assert hold_key_of(ALICE, tmp_path).key.public_bytes == KEY.public_bytes


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        hold_key_of(ALICE, tmp_path)
    assert names(tmp_path / "keys") == []


def test_no_folder_is_no_keys(tmp_path: Path) -> None:
    assert list_keys(tmp_path / "none") == []


def test_default_keys_come_first_and_damaged_ones_say_why(tmp_path: Path) -> None:
    held = [hold_key_of(who, tmp_path) for who in (ALICE, None, None)]
    put(tmp_path / "keys/str%3abob.key", b"damaged")
    put(tmp_path / "keys/notes.txt", b"")
    put(tmp_path / "keys/odd.key", KEY.to_pem())
    found = list_keys(tmp_path)
    assert [one.path.name for one in found] == [
        "default-2.key", "default.key", "odd.key", "str%3aalice.key", "str%3abob.key",
    ]  # fmt: skip
    assert [one.identity for one in found] == [
        Identity.generic_bytes(held[2].key.public_bytes), Identity.generic_bytes(held[1].key.public_bytes), None, ALICE, BOB,
    ]  # fmt: skip
    assert "holds no key" in found[-1].problem
    assert [one.key is None for one in found] == [False, False, False, False, True]


def test_only_so_many_files_are_looked_at(tmp_path: Path) -> None:
    for number in range(KEY_FILES_LISTED_MAX + 5):
        put(tmp_path / f"keys/{number:05}.key", b"")
    assert len(list_keys(tmp_path)) == KEY_FILES_LISTED_MAX


def test_bytes_are_a_key_or_its_pem_text() -> None:
    assert load_key(SECRET).public_bytes == KEY.public_bytes
    assert load_key(KEY.to_pem()).public_bytes == KEY.public_bytes
    assert load_key(b"alice's key, for the house\r\n" + KEY.to_pem().replace(b"\n", b"\r\n")).public_bytes == KEY.public_bytes


@pytest.mark.parametrize("source", [b"", SECRET[:31], SECRET + b"!", SECRET.hex().encode(), KEY.to_pem()[:60]])
def test_other_bytes_are_refused_without_showing_them(source: bytes) -> None:
    with pytest.raises(UsageError) as told:
        load_key(source)
    assert not shows_the_secret(str(told.value))


@pytest.mark.parametrize("text", [SECRET.hex(), SECRET.hex().upper() + "\n", KEY.to_pem().decode(), ""])
def test_a_key_given_as_a_path_by_mistake_does_not_show(text: str) -> None:
    with pytest.raises(UsageError, match="a key is given as bytes, or as the path") as told:
        load_key(text)
    assert not shows_the_secret(str(told.value))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file '.*none\.key'"):
        load_key(tmp_path / "none.key")
    with pytest.raises(UsageError, match="no possible name"):
        load_key("a\0b")


def test_a_given_file_is_not_locked(tmp_path: Path) -> None:
    held = hold_key_of(ALICE, tmp_path)
    assert held.path is not None
    assert load_key(held.path).public_bytes == held.key.public_bytes


def test_openssl_reads_our_files_and_we_read_its(tmp_path: Path) -> None:
    try:
        made = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl")
    public = subprocess.run(["openssl", "pkey", "-pubout", "-outform", "DER"], input=made, capture_output=True, check=True)
    assert public.stdout.endswith(load_key(made).public_bytes)
    ours = subprocess.run(["openssl", "pkey", "-pubout", "-outform", "DER"], input=KEY.to_pem(), capture_output=True, check=True)
    assert ours.stdout.endswith(KEY.public_bytes)


def test_nothing_set_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_from_environment() is None
    monkeypatch.setenv("PEERGRAM_KEY", "")
    monkeypatch.setenv("PEERGRAM_KEY_FILE", "")
    assert key_from_environment() is None


@pytest.mark.parametrize(
    "text", [SECRET.hex(), f" {SECRET.hex().upper()}\n", KEY.to_pem().decode(), KEY.to_pem().decode().replace("\n", "\\n")]
)
def test_a_key_is_read_as_digits_or_pem(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERGRAM_KEY", text)
    key = key_from_environment()
    assert key is not None
    assert key.public_bytes == KEY.public_bytes


def test_a_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEERGRAM_KEY_FILE", str(put(tmp_path / "a.key", KEY.to_pem())))
    key = key_from_environment()
    assert key is not None
    assert key.public_bytes == KEY.public_bytes


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PEERGRAM_KEY": SECRET.hex(), "PEERGRAM_KEY_FILE": "a.key"}, "both set: unset one"),
        ({"PEERGRAM_KEY": SECRET.hex()[:-1]}, "PEERGRAM_KEY must be 64 hexadecimal digits"),
        ({"PEERGRAM_KEY": SECRET.hex() + "0"}, "PEERGRAM_KEY must be 64 hexadecimal digits"),
        ({"PEERGRAM_KEY": base64.b64encode(SECRET).decode()}, "PEERGRAM_KEY must be 64 hexadecimal digits"),
        ({"PEERGRAM_KEY": KEY.to_pem().decode()[:-30]}, "PEERGRAM_KEY holds a private key that is damaged"),
        ({"PEERGRAM_KEY_FILE": "/no/such/file"}, "PEERGRAM_KEY_FILE: there is no file '/no/such/file'"),
        ({"PEERGRAM_KEY_FILE": SECRET.hex()}, "PEERGRAM_KEY_FILE: a key is given as bytes"),
    ],
)
def test_what_is_set_wrongly_is_told_without_showing_it(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=sentence) as told:
        key_from_environment()
    assert not shows_the_secret(str(told.value))


def test_secrets_never_show(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        path = key_path(ALICE, tmp_path)
        make_key(path, KEY)
        held = hold_key_of(ALICE, tmp_path)
        shown = [repr(held), repr(HeldKey(KEY)), repr(list_keys(tmp_path)), *caplog.messages]
    assert not any(shows_the_secret(text) for text in shown)
    assert "str%3aalice.key" in repr(held)
    assert shows_the_secret(path.read_text())


def test_it_can_be_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEERGRAM_HOME", str(tmp_path / "x"))
    assert config_folder() == tmp_path / "x"
    assert not (tmp_path / "x").exists()


def test_it_must_be_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERGRAM_HOME", "keys")
    with pytest.raises(UsageError, match="PEERGRAM_HOME must be an absolute path, not 'keys'"):
        config_folder()


@pytest.mark.skipif(sys.platform != "linux", reason="where other systems keep it is theirs")
def test_it_is_the_systems_one_for_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere/config")
    assert config_folder() == Path("/somewhere/config/peergram")
    monkeypatch.setenv("XDG_CONFIG_HOME", "not absolute")
    assert config_folder() == Path.home() / ".config/peergram"


def test_a_system_that_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("APPDATA", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert config_folder() is None
