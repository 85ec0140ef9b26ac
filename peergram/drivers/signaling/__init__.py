"""Signaling services that carry signals for real, each with its own thread."""
