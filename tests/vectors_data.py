"""Loader of `tests/vectors/*.json`: recorded and computed traffic of the reference."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parent / "vectors"


@cache
def load(name: str) -> Any:
    """The parsed file, such as `load("01-crypto")`."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def number(value: int | str) -> int:
    """Large numbers are written as hexadecimal text."""
    return int(value, 16) if isinstance(value, str) else value


def control_packets() -> list[dict[str, Any]]:
    """Every control packet: rows with `kind`, `fields` and the whole `datagram`."""
    crypto = load("01-crypto")
    rows = []
    for row in crypto["control_packets"]:
        rows.append((row["kind"], row["fields"], row["hex_without_padding"], row["zero_padding"]))
    for conversation in crypto["conversations"]:
        for row in conversation["packets"]:
            if row["kind"] != "Data":
                rows.append((row["kind"], row["decoded"], row["hex"], row.get("zero_padding", 0)))
    return [
        {"kind": kind, "fields": fields, "datagram": bytes.fromhex(text) + bytes(padding)} for kind, fields, text, padding in rows
    ]
