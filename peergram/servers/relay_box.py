"""The relay map of one box: a server whose own relay is the only place, with a secret that it makes for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from peergram.errors import UsageError
from peergram.routes.ice_servers import parse_ice_server
from peergram.routes.relay_map import PointOfPresence, RelayMap
from peergram.servers.private_files import make_private_folder, write_private
from peergram.servers.relay_files import load_relay_secrets

CODE: Final = "box"
_FILE: Final = "relay-secret.txt"
_SECRET_BYTES: Final = 32


def box_map(servers: Sequence[str], name: str = "This server") -> RelayMap:
    """`servers` as in a relay map, such as `turn:192.0.2.7`. Raises UsageError."""
    found = tuple(dict.fromkeys(parse_ice_server(text) for text in servers))
    if not found:
        raise UsageError("a relay map of one box needs the address of its relay")
    return RelayMap((PointOfPresence(CODE, name, 0.0, 0.0, found),))


def box_secret(folder: Path, entropy: Callable[[int], bytes]) -> dict[str, bytes]:
    """The secret of the box, as `RelayDesk` takes it: made at the first start, and kept in this folder for its owner's eyes only.
    Raises UsageError for a file that others can read, or that does not hold."""
    path = folder / _FILE
    if not path.exists():
        try:
            make_private_folder(folder)
            write_private(path, f"{CODE} {entropy(_SECRET_BYTES).hex()}\n".encode())
        except OSError as error:
            raise UsageError(f"the secret of the relay cannot be kept in {str(path)!r}: {error.strerror or error}") from None
    secrets = load_relay_secrets(path)
    if set(secrets) != {CODE}:
        raise UsageError(f"{path}: one line is wanted, '{CODE} SECRET'; delete the file to have a new one made")
    return secrets
