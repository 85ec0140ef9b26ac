from __future__ import annotations

import hashlib
import time
from pathlib import Path
from random import Random

import pytest

from peergram.cli.transfer import CHANNEL, DATA, FileHeader, encode_end, encode_file
from peergram.events import SendFlags
from peergram.messages import Messages

from .commands import Running, free_port, port_in, run_command, running

SIZE_BYTES = 5_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file.bin"
    path.write_bytes(Random(1).randbytes(SIZE_BYTES))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "received"
    path.mkdir()
    return path


def receiver(folder: Path, *more: str) -> tuple[str, ...]:
    return ("receive", "--as", "bob", "--listen", "127.0.0.1:0", "--out", str(folder), *more)


def address_of(command: Running) -> str:
    return f"ip:127.0.0.1:{port_in(command.wait_line('Waiting for files'))}"


def test_a_file_arrives_whole_and_both_sides_show_its_hash(file: Path, folder: Path) -> None:
    with running(*receiver(folder, "--once", "--yes")) as receiving:
        sent = run_command("send", str(file), "--as", "alice", "--to", address_of(receiving))
        assert (sent.returncode, sent.stderr) == (0, "")
        assert receiving.wait_end() == 0
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"SHA-256 {sha256}, the same on both sides" in sent.stdout
    assert f"SHA-256 {sha256}, the same on both sides" in receiving.output
    assert "str:alice at 127.0.0.1:" in receiving.output
    assert (folder / file.name).read_bytes() == file.read_bytes()
    assert [path.name for path in folder.iterdir()] == [file.name]


def test_existing_files_stay_and_new_ones_get_numbers(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "empty.txt"
    file.touch()
    (folder / "empty.txt").write_text("mine")
    with running(*receiver(folder, "--yes")) as receiving:
        to = address_of(receiving)
        for name in ("empty (2).txt", "empty (3).txt"):
            sent = run_command("send", str(file), "--as", "alice", "--to", to)
            assert sent.returncode == 0, sent.stderr
            assert f"bob has saved {name}" in sent.stdout
        receiving.interrupt()
        assert receiving.wait_end() == 130
    assert (folder / "empty.txt").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["empty (2).txt", "empty (3).txt", "empty.txt"]


def test_a_refused_sender_is_told_so(file: Path, folder: Path) -> None:
    with running(*receiver(folder)) as receiving:
        receiving.type("n\n")
        sent = run_command("send", str(file), "--as", "alice", "--to", address_of(receiving))
        assert sent.returncode == 1
        assert "refused" in sent.stderr
        assert sent.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_nobody_at_the_other_end_is_a_sentence_that_says_what_to_check(file: Path) -> None:
    sent = run_command("send", str(file), "--as", "alice", "--to", f"ip:127.0.0.1:{free_port()}", "--timeout", "0.5")
    assert sent.returncode == 1
    assert "No answer from 127.0.0.1:" in sent.stderr
    assert "check that the other side runs" in sent.stderr
    assert sent.stderr.count("\n") == 1


def test_without_anybody_to_ask_receive_says_to_give_yes(file: Path, folder: Path) -> None:
    with running(*receiver(folder)) as receiving:
        to = address_of(receiving)
        receiving.end_input()
        run_command("send", str(file), "--as", "alice", "--to", to, "--timeout", "1")
        assert receiving.wait_end() == 1
    assert "--yes" in "".join(receiving.errors)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a\\b", "..", "", "x" * 300, "a\nb", 7])
def test_names_that_lead_elsewhere_are_refused(folder: Path, name: object) -> None:
    header = encode_file(FileHeader(name, 0))  # type: ignore[arg-type]
    assert received_by(folder, [header, encode_end("")]) == (1, [])


def test_a_hidden_name_becomes_visible(folder: Path) -> None:
    messages = [encode_file(FileHeader(".profile", 1)), DATA + b"x", encode_end(hashlib.sha256(b"x").hexdigest())]
    assert received_by(folder, messages) == (0, ["_.profile"])


@pytest.mark.parametrize(
    "messages",
    [
        [b"hello"],
        [b"F{", b"D"],
        [b"F" + b"[" * 4_000],
        [encode_file(FileHeader("a", 1)), DATA + b"xy", encode_end("")],
        [encode_file(FileHeader("a", 2)), DATA + b"x", encode_end(hashlib.sha256(b"x").hexdigest())],
        [encode_file(FileHeader("a", 1)), DATA + b"x", encode_end("0" * 64)],
        [encode_file(FileHeader("a", 1 << 61))],
        [encode_file(FileHeader("a", -1))],
    ],
    ids=["no header", "no JSON", "too deep", "too much", "too little", "wrong hash", "no room", "negative"],
)
def test_a_sender_that_does_not_keep_to_the_rules_leaves_nothing_behind(folder: Path, messages: list[bytes]) -> None:
    assert received_by(folder, messages) == (1, [])


def test_a_sender_that_vanishes_leaves_nothing_behind(folder: Path) -> None:
    assert received_by(folder, [encode_file(FileHeader("a", 10)), DATA + b"x"], stays=False) == (1, [])


def received_by(folder: Path, messages: list[bytes], *, stays: bool = True) -> tuple[int, list[str]]:
    """Exit code of a receiver that is sent these messages, and the files it leaves; it says why if it fails."""
    with running(*receiver(folder, "--once", "--yes")) as receiving, Messages("mallory") as net:
        to = address_of(receiving)
        for message in messages:
            net.send_message_to_user(to, message, SendFlags.RELIABLE, CHANNEL)
        if not stays:
            receiving.wait_line("Receiving")
            time.sleep(0.1)
            net.close()
        code = receiving.wait_end()
    assert "Traceback" not in "".join(receiving.errors)
    assert (len(receiving.errors) == 1) == (code == 1)
    return code, sorted(path.name for path in folder.iterdir())


def test_ctrl_c_while_receiving_leaves_nothing_behind_and_tells_the_sender(folder: Path) -> None:
    with running(*receiver(folder, "--once", "--yes")) as receiving, Messages("alice") as net:
        to = address_of(receiving)
        net.send_message_to_user(to, encode_file(FileHeader("a", 10)), SendFlags.RELIABLE, CHANNEL)
        receiving.wait_line("Receiving")
        receiving.interrupt()
        assert receiving.wait_end() == 130
        assert "Traceback" not in "".join(receiving.errors)
        until_s = time.monotonic() + 5
        while net.get_session_connection_info(to).state == 3:
            assert time.monotonic() < until_s
            time.sleep(0.01)
    assert list(folder.iterdir()) == []


def test_a_receiver_that_goes_away_is_noticed_by_the_sender(tmp_path: Path, folder: Path) -> None:
    huge = tmp_path / "huge"
    with open(huge, "wb") as file:
        file.truncate(4_000_000_000)
    with (
        running(*receiver(folder, "--yes")) as receiving,
        running("send", str(huge), "--as", "a", "--to", address_of(receiving)) as s,
    ):
        s.wait_line("accepted")
        receiving.wait_line("Receiving")
        receiving.interrupt()
        receiving.wait_end()
        assert s.wait_end() == 1
    assert len(s.errors) == 1
    assert "bob is gone" in s.errors[0]
    assert list(folder.iterdir()) == []
