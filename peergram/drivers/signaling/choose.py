"""A signaling service from what a user writes: `lan`, an address, a service of his own, or none."""

from __future__ import annotations

from urllib.parse import urlsplit

from peergram.drivers.signaling.lan import LanSignaling
from peergram.drivers.signaling.line_client import DEFAULT_PORT, LineSignaling
from peergram.errors import UsageError
from peergram.signaling.service import SignalingService

_HINT = (
    "write 'lan', 'wss://host:port/' (as `peergram serve` prints it; several with commas), 'line://host:port', or None for none"
)


def open_signaling(spec: str | SignalingService | None) -> SignalingService | None:
    """Raises UsageError, with what may be written, for text that names none. Several servers, with commas, are nodes of one
    fleet."""
    if spec is None or not isinstance(spec, str):
        return spec
    if spec == "lan":
        return LanSignaling()
    scheme = spec.partition("://")[0]
    if scheme in ("ws", "wss"):
        # Only who uses it pays for importing a WebSocket library.
        from peergram.drivers.signaling.websocket import WebSocketSignaling

        return WebSocketSignaling(spec)
    if scheme == "line":
        return LineSignaling(*_host_and_port(spec))
    raise UsageError(f"signaling {spec!r}: {_HINT}")


def _host_and_port(spec: str) -> tuple[str, int]:
    try:
        url = urlsplit(spec)
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host:
        raise UsageError(f"signaling {spec!r}: {_HINT}")
    return host, port or DEFAULT_PORT
