"""What the package is built to: pure Python unless asked otherwise, and on request a wheel with compiled modules that works."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import peergram
from tests.threats.world import SOAK

ROOT = Path(__file__).resolve().parent.parent
HOOK = ROOT / "hatch_build.py"
SESSION = """
import importlib, sys
import peergram
from peergram.sim.swarm import run_seed

assert peergram.COMPILED, peergram.__file__
for path in sys.argv[1:]:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert not module.__file__.endswith(".py"), module.__file__
for seed in range(3):
    result = run_seed(seed)
    assert result.ok, result
with peergram.Messages("bob", listen="127.0.0.1:0", signaling=None) as bob, peergram.Messages("alice", signaling=None) as alice:
    bob.on_session_request = lambda request: bob.accept_session_with_user(request.identity)
    assert alice.send_message_to_user(f"ip:127.0.0.1:{bob.local_addresses[0][1]}", b"hello", 8) == peergram.Result.OK
    received = []
    import select
    while not received:
        assert select.select([bob], [], [], 10)[0]
        bob.run_callbacks()
        received = bob.receive_messages_on_channel(0, 1)
    assert [message.payload for message in received] == [b"hello"]
print("works")
"""

pytestmark = pytest.mark.skipif(not (ROOT / "peergram").is_dir(), reason="the package's source is not beside these tests")
needs_hatchling = pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="builds a wheel: install hatchling")


def compiled_modules() -> list[str]:
    """The list in the hook, read without what the hook needs to run."""
    for node in ast.parse(HOOK.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            return list(ast.literal_eval(node.value))
    raise AssertionError("the hook has no list of modules")


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel of this source into `folder`."""
    settings = {name: value for name, value in os.environ.items() if name not in ("PEERGRAM_COMPILE", "CC")} | environment
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)


def test_the_modules_to_compile_exist_and_are_named_once() -> None:
    modules = compiled_modules()
    assert len(set(modules)) == len(modules)
    assert [path for path in modules if not (ROOT / path).is_file()] == []


def test_the_package_says_which_build_it_is() -> None:
    from peergram import timing

    assert (not str(timing.__file__).endswith(".py")) == peergram.COMPILED


@needs_hatchling
def test_without_being_asked_the_wheel_is_pure_python(tmp_path: Path) -> None:
    for environment in ({}, {"PEERGRAM_COMPILE": "0"}):
        built = build(tmp_path, CC="no-such-compiler", **environment)
        assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".so", ".pyd", ".c"))]


@needs_hatchling
@pytest.mark.skipif(os.name == "nt", reason="setuptools looks for the compiler there")
def test_without_a_compiler_a_sentence_says_what_to_do(tmp_path: Path) -> None:
    built = build(tmp_path, PEERGRAM_COMPILE="1", CC="no-such-compiler")
    said = built.stdout + built.stderr
    assert built.returncode != 0
    assert "there is no 'no-such-compiler'" in said
    assert "leave PEERGRAM_COMPILE unset" in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@needs_hatchling
@pytest.mark.skipif(not SOAK, reason="compiles for more than a minute: set PEERGRAM_SOAK=1")
def test_the_compiled_wheel_holds_sessions(tmp_path: Path) -> None:
    built = build(tmp_path / "wheel", PEERGRAM_COMPILE="1")
    if "PEERGRAM_COMPILE=1 needs" in built.stdout + built.stderr:
        pytest.skip((built.stdout + built.stderr).strip())
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "wheel").iterdir()
    assert "none-any" not in wheel.name
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    modules = compiled_modules()
    assert [path for path in modules if not (site / path).is_file()] == []
    ran = subprocess.run(
        [sys.executable, "-c", SESSION, *modules],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "works\n"
