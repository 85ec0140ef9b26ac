"""One side of one run, in a process of its own.

`python -m benches.worker ROLE CONTESTANT CASE PORT SECONDS` prints its account as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from benches import contestants
from benches.cases import CASES


def main(role: str, name: str, case_name: str, port: str, seconds: str) -> None:
    """Run one side to its end."""
    contestant = contestants.load(name)
    if isinstance(contestant, str):
        sys.exit(contestant)
    side = contestant.sender if role == "sender" else contestant.receiver
    print(json.dumps(asdict(side(CASES[case_name], int(port), float(seconds)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
