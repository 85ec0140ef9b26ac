"""Servers: each the runner of a core that does no I/O."""
