"""`peergram known`: whose keys are remembered, and what to do when somebody has a new one."""

from __future__ import annotations

import click

from peergram.cli.default_command import GroupWithDefault
from peergram.cli.terminal import Failure, printable, say, say_aside, user_folder
from peergram.drivers.known_peers_file import FILE_NAME, KnownPeersFile
from peergram.errors import UsageError
from peergram.identity import Identity

_COLUMN_MAX = 32


@click.group(cls=GroupWithDefault, default="list", usage="")
def known() -> None:
    """List the peers whose keys are known, and decide about them.

    A name is remembered with the fingerprint of its key at first contact; later, only that key is the name. Somebody with a new
    key is refused until you have asked whether it is theirs, and typed peergram known accept.

    \b
    Examples:
      peergram known
      peergram known accept bob SHA256:jEo1cAtcYzOBZ5LBRtV2DVa4VbyNHVDHJSUqA6kxZF0
      peergram known forget bob
    """


@known.command("list", hidden=True)
def list_() -> int:
    """List them."""
    file = _file()
    width = min(max((len(peer.identity.printable) for peer in file.peers), default=0), _COLUMN_MAX)
    for peer in file.peers:
        say(f"{peer.identity.printable:<{width}}  {peer.fingerprint}  {printable(peer.note)}".rstrip(), whole=True)
    if not file.peers:
        say("Nobody is known yet: names are remembered with their keys at first contact.")
    return 0


@known.command()
@click.argument("name")
def forget(name: str) -> int:
    """Forget the keys of a name.

    The next contact with it counts as the first.
    """
    identity, file = Identity.of(name), _file()
    gone = file.forget(identity)
    if not gone:
        raise Failure(f"{identity.printable} is not known")
    say(f"{identity.printable} is forgotten; the next contact counts as the first.")
    return 0


@known.command()
@click.argument("name")
@click.argument("fingerprint")
def accept(name: str, fingerprint: str) -> int:
    """Let a name have this key, and no other.

    Ask the person, by other means, whether the fingerprint is the one that peergram id shows there.
    """
    identity, file = Identity.of(name), _file()
    if identity.public_key_bytes is not None:
        raise UsageError(f"{identity.printable} is itself a key, which nobody else can have: there is nothing to remember")
    if identity.ip_address is not None:
        raise UsageError(f"{identity.printable} is an address, where others may be tomorrow: only names keep their keys")
    before = [known for who, known in file.entries if who == identity]
    file.accept(identity, fingerprint)
    say(f"{identity.printable} is known by {fingerprint} from now on.", "green", whole=True)
    for old in before:
        if old != fingerprint:
            say(f"No longer by {old}.", whole=True)
    return 0


def _file() -> KnownPeersFile:
    file = KnownPeersFile(user_folder() / FILE_NAME)
    for problem in file.problems:
        say_aside(f"Skipped: {problem}")
    return file
