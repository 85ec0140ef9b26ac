"""One side of one run, in a process of its own.

`python -m benches.worker ROLE CONTESTANT CASE PORT SECONDS SETTING CONNECTIONS` prints its account as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from benches import contestants
from benches.cases import CASES, Task


def main(role: str, name: str, case_name: str, port: str, seconds: str, setting: str, connections: str) -> None:
    """Run one side to its end."""
    contestant = contestants.load(name)
    if isinstance(contestant, str):
        sys.exit(contestant)
    account = getattr(contestant, role)(Task(CASES[case_name], int(port), float(seconds), setting, int(connections)))
    print(json.dumps(asdict(account) if account else {}))


if __name__ == "__main__":
    main(*sys.argv[1:])
