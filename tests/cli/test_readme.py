from __future__ import annotations

import re
import subprocess
import sys

import pytest

from .commands import ROOT, environment, free_port

README = (ROOT / "README.md").read_text(encoding="utf-8")


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment(), timeout=30, check=False
    )


def test_the_example_of_the_readme_is_the_one_of_the_examples_and_does_what_it_says() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert example == (ROOT / "examples/hello.py").read_text(encoding="utf-8")
    done = run_python("-c", example)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"It prints `{done.stdout.strip()}`" in README


def test_the_frame_loop_example_carries_positions_and_shots() -> None:
    done = run_python(str(ROOT / "examples/frame_loop.py"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ben saw 3 shots")


def test_the_example_for_asyncio_talks_and_sends_a_blob() -> None:
    done = run_python(str(ROOT / "examples/awaitable.py"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "hello from alice\nzeros: 1000000 bytes from str:alice\n"


def test_three_play_the_coins_example_to_its_end_and_agree_who_has_won() -> None:
    party = f"coins-{free_port()}"
    game = [sys.executable, str(ROOT / "examples/coins.py"), "--party", party, "--bot", "--seconds", "60"]
    seats = [["host", "--players", "3"], ["join", "--as", "ben"], ["join", "--as", "ben"]]
    players = [
        subprocess.Popen(
            [*game, *seat],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for seat in seats
    ]
    try:
        said = [player.communicate(timeout=60) for player in players]
    finally:
        for player in players:
            player.kill()
    assert [errors for _, errors in said] == ["", "", ""]
    assert len({output for output, _ in said}) == 1
    assert re.fullmatch(r"(anna|ben'?) wins! \(anna \d, ben \d, ben' \d\)\n", said[0][0])


def test_the_coins_example_needs_no_terminal_to_be_played_by_hand() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/coins.py"), "host", "--party", f"coins-{free_port()}", "--seconds", "1"],
        input="dds\n",
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "anna: 0\nwaiting for somebody to join\n" in done.stdout
    assert "@" in done.stdout


def test_the_echo_example_answers() -> None:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "examples/echo.py"), str(port)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("listening at")
        done = run_python(str(ROOT / "examples/echo.py"), f"ip:127.0.0.1:{port}")
    finally:
        server.kill()
        server.communicate()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the server said: Is anybody there?\n"


@pytest.mark.parametrize(
    "command",
    [
        "python3 -m venv .venv && .venv/bin/pip install '.[cli]' && .venv/bin/peergram demo",
        "python3 -m venv .venv && .venv/bin/pip install '.[cli,test]' && .venv/bin/python -m pytest",
    ],
)
def test_the_readme_has_the_commands_that_are_tried_by_hand_with_each_release(command: str) -> None:
    assert f"\n{command}\n" in README
