"""docs/asyncio.md: its examples print what the page says they do, and its names are those of the dress."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import peergram
from peergram import aio, config
from tests.cli.commands import ROOT, TIMEOUT_S, environment, unique_name

PAGE = (ROOT / "docs/asyncio.md").read_text(encoding="utf-8")
EXAMPLES = {code.split(":")[0].removeprefix("# "): code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)}
NAMES = ("alice", "bob", "server", "guest", "nobody-there")
PRINTED = {
    "hello.py": ["str:alice b'hello'", "b'hello yourself'"],
    "server.py": [
        *("comes: str:guest0", "b'zero 0'"),
        *("comes: str:guest1", "b'one 1'"),
        *("comes: str:guest2", "b'zero 2'"),
    ],
    "pour.py": ["20000000 bytes arrived"],
    "patience.py": ["not within 0.2 s", "nothing came"],
    "broken.py": ["unconfirmed: 1", "refused: True"],
}


@pytest.mark.parametrize("name", list(PRINTED))
def test_the_examples_do_what_the_page_says(name: str, tmp_path: Path) -> None:
    ending = unique_name("")
    code = EXAMPLES[name]
    for known in NAMES:
        # Other programs of this machine may have the names of the page.
        code = re.sub(rf'(?<=["])({known})(?=["{{])', rf"\1{ending}", code)
    path = tmp_path / name
    path.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=environment(), timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(ending, "").splitlines() == PRINTED[name], done.stderr


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == set(PRINTED)


def test_names_on_the_page_exist_and_limits_are_those_that_hold() -> None:
    for name in re.findall(r"`net\.(\w+)", PAGE):
        assert hasattr(aio.Net, name), name
    for name in re.findall(r"`config\.(\w+)`", PAGE):
        assert hasattr(config.Config(), name), name
    errors = set(re.findall(r"`(\w+Error)`", PAGE)) - {"TimeoutError"}
    assert errors == {name for name in errors if name in peergram.__all__}
    assert f"{config.Config().send_buffer_bytes // 1024} KiB" in PAGE
    assert config.Config().linger_us == 500_000, "half a second, says the page"
