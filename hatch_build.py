"""The compiled build: `PEERGRAM_COMPILE=1 pip install .` compiles the modules that every packet meets, from the same source.

Without that variable the wheel is pure Python, and nothing of this runs. With it, mypyc turns the modules named in `COMPILED`
into C, and the C compiler makes extension modules of them; in the wheel they lie beside their source, and the interpreter
prefers them. What opens and closes connections gains nothing by it. `messages.py`, where programs come in, stays interpreted:
they may pass any kind of bytes, inherit from it, and are told in words what was wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "PEERGRAM_COMPILE"
COMPILED = (
    "peergram/timing.py",
    "peergram/crypto/seal.py",
    "peergram/wire/alike.py",
    "peergram/wire/channel_header.py",
    "peergram/wire/cursor.py",
    "peergram/wire/data_packet.py",
    "peergram/wire/frames.py",
    "peergram/wire/link_stats.py",
    "peergram/wire/reliable_framing.py",
    "peergram/wire/varint.py",
    "peergram/sessions/channels.py",
    "peergram/sessions/session.py",
    "peergram/connection/auto_rate.py",
    "peergram/connection/connection.py",
    "peergram/connection/flow.py",
    "peergram/connection/in_flight.py",
    "peergram/connection/lanes.py",
    "peergram/connection/liveness.py",
    "peergram/connection/pacing.py",
    "peergram/connection/path_estimate.py",
    "peergram/connection/path_mtu.py",
    "peergram/connection/pings.py",
    "peergram/connection/rate.py",
    "peergram/connection/receive.py",
    "peergram/connection/received.py",
    "peergram/connection/reliable.py",
    "peergram/connection/resend.py",
    "peergram/connection/room.py",
    "peergram/connection/rtt.py",
    "peergram/connection/stats.py",
    "peergram/connection/transmit.py",
    "peergram/connection/unreliable.py",
    "peergram/endpoint/endpoint.py",
    "peergram/endpoint/inbox.py",
    "peergram/endpoint/link.py",
    "peergram/endpoint/peer.py",
    "peergram/endpoint/remotes.py",
    "peergram/endpoint/schedule.py",
)
COMPILER = ("mypy[mypyc]>=2.4,<3",)
_SETUP = """\
import sys
from mypyc.build import mypycify
from setuptools import setup

extensions = mypycify(["--config-file=", "--strict", *sys.argv[1:]], opt_level="{level}", debug_level="0", group_name="peergram")
setup(name="peergram", packages=[], py_modules=[], ext_modules=extensions, script_args=["build_ext", "--inplace"])
"""
_OPTIMIZATION = "1"
"""More makes the compiler take twice as long and the result faster by a hundredth."""
_OR = f"or leave {VARIABLE} unset: the pure Python build does the same, only more slowly"


class CompilingHook(BuildHookInterface):  # type: ignore[type-arg, unused-ignore]
    """Adds the extension modules to a wheel, if they are asked for."""

    _folder: str | None = None

    def dependencies(self) -> list[str]:
        """What the build needs besides hatchling; mypy wants to see the types of what we import."""
        return [*COMPILER, *self.metadata.core.dependencies] if _is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the results and the platform to the wheel."""
        if not _is_wanted():
            return
        if version == "editable":
            self.app.abort(f"{VARIABLE}=1 cannot compile an editable installation: install without -e, {_OR}")
        missing = _missing()
        if missing:
            self.app.abort(f"{VARIABLE}=1 needs {missing}: install what is missing, {_OR}")
        self._folder = tempfile.mkdtemp(prefix="peergram-build-")
        made = _compile(Path(self.root), Path(self._folder))
        if isinstance(made, str):
            self._clear()
            self.app.abort(f"{made}\n{VARIABLE}=1 failed to compile (above): mend that, {_OR}")
            return
        build_data["force_include"].update({str(path): path.relative_to(self._folder).as_posix() for path in made})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is made: nothing stays behind."""
        self._clear()

    def _clear(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _is_wanted() -> bool:
    return os.environ.get(VARIABLE, "") not in ("", "0")


def _missing() -> str | None:
    """What a C extension needs and this machine lacks; None if it is all there, or Windows, where setuptools looks for it."""
    if os.name == "nt":
        return None
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"a C compiler, and there is no {compiler!r} (Debian: apt install gcc; macOS: xcode-select --install)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        return f"the headers of Python, and there is no {header} (Debian: apt install python3-dev)"
    return None


def _compile(root: Path, folder: Path) -> list[Path] | str:
    """The extension modules, made in a copy of the package below `folder`; or what the compilers said last."""
    shutil.copytree(root / "peergram", folder / "peergram", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "setup.py").write_text(_SETUP.format(level=_OPTIMIZATION), encoding="utf-8")
    made = subprocess.run(
        [sys.executable, "setup.py", *COMPILED],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    found = [path for path in folder.rglob(f"*{suffix}") if path.relative_to(folder).parts[0] != "build"]
    if made.returncode or len(found) != len(COMPILED) + 1:
        return made.stdout[-4000:]
    return found
