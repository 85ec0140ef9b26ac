"""Settings of all tests: the project folder is importable, property tests have no deadline and print how to repeat a failure."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

# No test leaves anything in the user's folders.
_STATE = tempfile.TemporaryDirectory(prefix="peergram-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name
os.environ["PEERGRAM_HOME"] = os.path.join(_STATE.name, "home")
for _name in ("PEERGRAM_KEY", "PEERGRAM_KEY_FILE"):
    os.environ.pop(_name, None)


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for keys and known peers that each test has for itself, and that its child processes share."""
    monkeypatch.setenv("PEERGRAM_HOME", str(tmp_path_factory.mktemp("home")))


settings.register_profile("default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("default"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
