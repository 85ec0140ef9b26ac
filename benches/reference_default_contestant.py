"""The reference as it comes: its own send rate (256 KiB/s, fixed) and buffers, otherwise driven as in `reference_contestant`."""

from __future__ import annotations

from benches.reference_contestant import echo, missing, pinger, receiver, sender

__all__ = ["DESCRIPTION", "LEFT_OUT", "NAME", "echo", "missing", "pinger", "receiver", "sender"]

NAME = "reference_default"
DESCRIPTION = "the same library with its default send rate of 256 KiB/s, which does not adapt, and its default buffers"
LEFT_OUT = {"idle": "idle connections do not use what its settings are about, so it would repeat the reference"}
