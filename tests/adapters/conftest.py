from __future__ import annotations

from collections.abc import Iterator

import pytest

from .networks import Town


@pytest.fixture
def town() -> Iterator[Town]:
    found = Town()
    yield found
    found.close()
