"""Commands that find each other by name, on the local network and without a server; each name is nobody else's."""

from __future__ import annotations

import hashlib
import re
import signal
import time
from pathlib import Path
from random import Random

import pytest

from .commands import Running, run_command, running, unique_name


@pytest.fixture
def alice() -> str:
    return unique_name("alice")


@pytest.fixture
def bob() -> str:
    return unique_name("bob")


def wait_ready(chat: Running) -> None:
    chat.wait_line("Type a name to call")


def let_in(chat: Running, name: str, proof: str = "") -> None:
    assert chat.wait_line("wants to talk").startswith(f"str:{name}")
    assert proof in chat.wait_line("  ")
    chat.wait_line("Let in?")
    chat.type("y\n")


def test_two_people_find_each_other_by_name_and_talk(alice: str, bob: str) -> None:
    with running("chat", alice) as first, running("chat", bob) as second:
        wait_ready(first)
        wait_ready(second)
        second.type(f"{alice}\n")
        second.wait_line(f"Calling {alice}")
        second.type("are you there?\n")
        second.wait_line("nobody got this line")
        let_in(first, bob)
        second.wait_line(f"str:{alice} is here")
        second.wait_line("not proven")
        assert re.fullmatch(
            f"Talking to {alice} (over the local network|directly).", second.wait_line(f"Talking to {alice}").strip()
        )
        second.type("hello alice\n")
        first.wait_line(f"{bob}: hello alice")
        first.type("hello bob\n")
        second.wait_line(f"{alice}: hello bob")
        first.end_input()
        assert first.wait_end() == 0
        second.wait_line(f"{alice} has left")
        second.type("hello?\n")
        second.wait_line("Type a name to call")
        second.interrupt()
        assert second.wait_end() == 130
        assert "is lost" not in second.output
    assert [line.strip() for line in first.errors + second.errors if line.strip()] == []


def test_who_is_called_at_once_may_refuse(alice: str, bob: str) -> None:
    with running("chat", bob) as callee:
        wait_ready(callee)
        with running("chat", alice, "--to", bob) as caller:
            callee.wait_line("Let in?")
            callee.type("n\n")
            assert caller.wait_end() == 1
        callee.wait_line("was refused")
        callee.type("x\n")
        callee.wait_line("Type a name to call")
    assert caller.errors == [f"{bob} refused: ask there to accept, then try again.\n"]


def test_a_name_that_nobody_has_is_no_answer_and_the_next_may_be_tried(alice: str, bob: str) -> None:
    with running("chat", alice, "--timeout", "0.5") as chat:
        wait_ready(chat)
        chat.type("two words\n")
        chat.wait_line("one word")
        chat.type(f"{alice}\n")
        chat.wait_line("That is you")
        chat.type("127.0.0.1:7\n")
        chat.wait_line("did you mean ip:127.0.0.1:7")
        chat.type(f"{bob}\n")
        chat.wait_line(f"Calling {bob}")
        assert "Type a name to call" in chat.wait_line(f"No answer from {bob}.")
        with running("chat", bob) as late:
            wait_ready(late)
            chat.type(f"{bob}\n")
            late.wait_line("wants to talk")


@pytest.mark.parametrize("command", ["chat", "send", "ping"])
def test_a_name_that_nobody_has_ends_a_command_with_a_sentence(command: str, alice: str, bob: str) -> None:
    arguments = {"chat": [alice, "--to", bob], "send": [__file__, "--as", alice, "--to", bob], "ping": [bob, "--as", alice]}
    done = run_command(command, *arguments[command], "--timeout", "0.5")
    assert done.returncode == 1
    assert f"No answer from {bob} in 0 s" in done.stderr or f"No answer from {bob} in 1 s" in done.stderr
    assert "Local network" in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_programs_of_one_name_are_both_asked_and_one_talks(alice: str, bob: str, tmp_path: Path) -> None:
    """Two people who chose one name; of one user, the second program would be refused."""
    with running("chat", bob) as first, running("chat", bob, home=tmp_path) as second, running("chat", alice) as caller:
        for chat in (first, second, caller):
            wait_ready(chat)
        caller.type(f"{bob}\n")
        let_in(first, alice)
        second.wait_line("wants to talk")
        caller.wait_line(f"str:{bob} is here")
        caller.type("which of you?\n")
        first.wait_line(f"{alice}: which of you?")
        second.type("y\n")
        second.type("hello?\n")
        # Whether the second program still waits for the caller by then, or was told already that he is not coming.
        second.wait_line("nobody got this line")
        caller.type("still there?\n")
        first.wait_line(f"{alice}: still there?")
    assert f"str:{alice} is here" not in second.output


def test_a_name_is_known_by_its_key_from_the_first_talk_on(alice: str, bob: str, tmp_path: Path) -> None:
    for proof in ("not proven: the first contact", "proven: the key that you know this name with"):
        with running("chat", alice) as called:
            wait_ready(called)
            with running("chat", bob, "--to", alice, home=tmp_path / "bob") as caller:
                let_in(called, bob, proof)
                caller.wait_line(f"str:{alice} is here")
                caller.wait_line(proof)
                called.wait_line(f"str:{bob} is here")
    with running("chat", alice) as called:
        wait_ready(called)
        with running("chat", bob, "--to", alice, home=tmp_path / "another bob") as impostor:
            command = called.wait_line(f"str:{bob} is known with another key").rpartition(": ")[2].strip().rstrip(".")
            assert impostor.wait_end() == 1
            assert "known here with another key" in impostor.errors[0]
        assert command.startswith(f"peergram known accept str:{bob} SHA256:")
        assert run_command(*command.split()[1:]).returncode == 0
        with running("chat", bob, "--to", alice, home=tmp_path / "another bob") as accepted:
            let_in(called, bob, "proven: the key that you know this name with")
            accepted.wait_line(f"str:{alice} is here")


def test_a_file_is_sent_to_a_name(tmp_path: Path, alice: str, bob: str) -> None:
    file, folder = tmp_path / "a file.bin", tmp_path / "received"
    file.write_bytes(Random(1).randbytes(2_000_000))
    folder.mkdir()
    with running("receive", "--as", bob, "--out", str(folder), "--once", "--yes") as receiving:
        receiving.wait_line("Local network")
        sent = run_command("send", str(file), "--to", bob, "--as", alice)
        assert (sent.returncode, sent.stderr) == (0, "")
        assert receiving.wait_end() == 0
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"SHA-256 {sha256}, the same on both sides" in sent.stdout
    assert f"Talking to {bob} " in sent.stdout
    assert (folder / file.name).read_bytes() == file.read_bytes()


def test_without_a_name_a_receiver_is_reached_by_its_key(tmp_path: Path) -> None:
    file, folder = tmp_path / "a", tmp_path / "received"
    file.write_bytes(b"x")
    folder.mkdir()
    with running("receive", "--out", str(folder), "--once", "--yes") as receiving:
        key = receiving.wait_line("Waiting for files").split()[4]
        assert re.fullmatch("gen:[0-9a-f]{64}", key)
        receiving.wait_line("Local network")
        sent = run_command("send", str(file), "--to", key)
        assert (sent.returncode, sent.stderr) == (0, "")
        assert receiving.wait_end() == 0


def test_round_trips_are_measured_and_the_other_program_sees_no_message(alice: str, bob: str) -> None:
    with running("chat", bob) as chat:
        wait_ready(chat)
        with running("ping", bob, "--as", alice, "--count", "5", "--interval", "0.1") as ping:
            ping.wait_line(f"waiting for {bob} to accept")
            let_in(chat, alice)
            ping.wait_line(f"{bob} has accepted")
            assert ping.wait_end() == 0
        chat.wait_line(f"{alice} has left")
        assert f"{alice}:" not in chat.output
    answers = re.findall(r"^ +(\d+): (\d+\.\d+) ms (?:local|direct) \S+$", ping.output, re.MULTILINE)
    assert [int(number) for number, _ in answers] == [1, 2, 3, 4, 5]
    assert all(0 < float(ms) < 1_000 for _, ms in answers)
    assert f"{bob}: 5 sent, 5 answered; min " in ping.output
    assert ping.errors == []


@pytest.mark.parametrize("comes_back", [False, True], ids=["for good", "for a while"])
def test_missing_answers_are_said_and_those_that_come_later_told_apart(alice: str, bob: str, *, comes_back: bool) -> None:
    with running("chat", bob) as chat:
        wait_ready(chat)
        with running("ping", bob, "--as", alice, "--interval", "0.5") as ping:
            let_in(chat, alice)
            ping.wait_line("1: ")
            chat.process.send_signal(signal.SIGSTOP)
            try:
                ping.wait_line("no answer within 2 s")
                if comes_back:
                    chat.process.send_signal(signal.SIGCONT)
                    ping.wait_line(" ms ")
                ping.interrupt()
                assert ping.wait_end() == 130
            finally:
                chat.process.send_signal(signal.SIGCONT)
    # Answers that come after all are missing no longer; of many pings that waited, the newest alone may be answered.
    missing = r"(?: \(\d+% missing\))?" if comes_back else r" \(\d+% missing\)"
    assert re.search(rf"{bob}: \d+ sent, \d+ answered{missing}; min ", ping.output)


def test_a_peer_that_goes_away_ends_the_pings_with_their_summary(alice: str, bob: str) -> None:
    with running("chat", bob) as chat:
        wait_ready(chat)
        with running("ping", bob, "--as", alice, "--interval", "0.1") as ping:
            let_in(chat, alice)
            ping.wait_line("2: ")
            chat.end_input()
            assert chat.wait_end() == 0
            assert ping.wait_end() == 1
    assert f"{bob}: " in ping.output.splitlines()[-1]
    assert len(ping.errors) == 1
    assert f"{bob} is gone" in ping.errors[0]


def test_a_peer_that_lets_nobody_in_is_not_pinged(alice: str, bob: str) -> None:
    with running("chat", bob) as chat:
        wait_ready(chat)
        with running("ping", bob, "--as", alice) as ping:
            chat.wait_line("Let in?")
            chat.type("n\n")
            assert ping.wait_end() == 1
    assert "refused" in ping.errors[0]
    assert "sent," not in ping.output


def test_an_address_is_pinged_without_signaling(alice: str) -> None:
    with running("chat", "bob", "--listen", "127.0.0.1:0") as chat:
        port = chat.wait_line("call you at").partition("127.0.0.1:")[2].strip().rstrip(".")
        with running("ping", f"ip:127.0.0.1:{port}", "--as", alice, "--count", "2", "--interval", "0.1") as ping:
            let_in(chat, alice)
            assert ping.wait_end() == 0
    assert f" ms direct 127.0.0.1:{port}" in ping.output
    assert "bob: 2 sent, 2 answered" in ping.output


def test_ctrl_c_ends_a_call_that_nobody_answers(alice: str, bob: str) -> None:
    with running("chat", alice, "--to", bob) as chat:
        chat.wait_line("waiting for an answer")
        time.sleep(0.2)
        chat.interrupt()
        assert chat.wait_end() == 130
    assert "".join(chat.errors).strip() == ""
