from __future__ import annotations

from .commands import free_port, port_in, run_command, running


def test_two_people_talk_and_each_sees_the_other_leave() -> None:
    with running("chat", "--as", "bob", "--listen", "127.0.0.1:0") as bob:
        port = port_in(bob.wait_line("call you at"))
        with running("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{port}") as alice:
            asked = bob.wait_line("wants to talk")
            assert asked.startswith("str:alice at 127.0.0.1:")
            bob.wait_line("key SHA256:")
            bob.type("what?\n")
            bob.wait_line("answer y or n")
            bob.type("y\n")
            alice.wait_line("str:bob is here")
            alice.type("hello bob\n")
            bob.wait_line("alice: hello bob")
            bob.type("hello alice\x1b[31m\n")
            assert "\x1b" not in alice.wait_line("bob: hello alice")
            alice.type("a last word\n")
            alice.end_input()
            assert alice.wait_end() == 0
        bob.wait_line("alice: a last word")
        bob.wait_line("alice has left")
        bob.type("still there?\n")
        bob.wait_line("Nobody is here")
        bob.interrupt()
        assert bob.wait_end() == 130
    assert [line.strip() for line in bob.errors + alice.errors if line.strip()] == []


def test_a_refused_caller_is_told_so() -> None:
    with running("chat", "--as", "bob", "--listen", "127.0.0.1:0") as bob:
        port = port_in(bob.wait_line("call you at"))
        with running("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{port}") as alice:
            bob.wait_line("Let in?")
            bob.type("n\n")
            assert alice.wait_end() == 1
        bob.wait_line("alice was refused")
    assert len(alice.errors) == 1
    assert "refused" in alice.errors[0]


def test_a_caller_that_gives_up_is_no_longer_asked_about() -> None:
    with running("chat", "--as", "bob", "--listen", "127.0.0.1:0") as bob:
        port = port_in(bob.wait_line("call you at"))
        with running("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{port}") as alice:
            bob.wait_line("Let in?")
            alice.interrupt()
            assert alice.wait_end() == 130
        bob.wait_line("alice has given up")


def test_without_an_answer_the_call_ends_with_a_sentence() -> None:
    done = run_command("chat", "--as", "alice", "--to", f"ip:127.0.0.1:{free_port()}", "--timeout", "0.5")
    assert done.returncode == 1
    assert "No answer from" in done.stderr
    assert done.stderr.count("\n") == 1
