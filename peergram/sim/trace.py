"""What happened in a run, as lines and as one hash.

Every line is `time host what`; the hash covers all of them, packets by their checksum, so that two runs with the same hash did
the same things at the same times (V17). Lines are kept only when somebody wants to read them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from shlex import quote

TAIL_LINES = 20
"""Lines shown of a failing run when nobody asked for the whole trace."""


class Trace:
    """Collects lines; `digest` names the run, `lines` tells its story (empty unless `keep`)."""

    __slots__ = ("_hash", "_keep", "lines")

    def __init__(self, *, keep: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._keep = keep
        self.lines: list[str] = []

    def add(self, at_us: int, host: str, what: str) -> None:
        """Note that `what` happened at `host` at world time `at_us`."""
        line = f"{at_us} {host} {what}"
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        if self._keep:
            self.lines.append(line)

    def digest(self) -> str:
        """32 hex digits over all lines so far."""
        return self._hash.hexdigest()


def render(lines: Iterable[str]) -> str:
    """The lines for people: seconds with a fraction, hosts in a column."""
    return "\n".join(_render_line(line) for line in lines)


def replay_command(seed: int, off: Iterable[str] = (), *, is_p2p: bool = False) -> str:
    """The one command that runs `seed` again and prints its trace."""
    without = "".join(f" --off {quote(feature)}" for feature in sorted(off))
    return f"peergram sim{' --p2p' if is_p2p else ''} --seeds 1 --from {seed} --trace{without}"


def _render_line(line: str) -> str:
    at_us, host, what = line.split(" ", 2)
    return f"{int(at_us) / 1e6:12.6f}  {host:<8} {what}"
