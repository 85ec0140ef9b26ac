"""What some tests do to the library cannot be done to compiled code (docs/performance.md): they are left out there."""

from __future__ import annotations

import pytest

from peergram import COMPILED


def interpreted_only(why: str) -> pytest.MarkDecorator:
    """Leave a test out where the library is compiled."""
    return pytest.mark.skipif(COMPILED, reason=f"the library is compiled here: {why}")


REPLACES = interpreted_only("the callers of a compiled function or constant would not notice its replacement")
STANDS_IN = interpreted_only("compiled code takes no other object for one of its own")
