"""`peergram id`: who one is to others, and the keys that prove it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import click

from peergram.cli.default_command import GroupWithDefault
from peergram.cli.qr import show_qr
from peergram.cli.terminal import Failure, name_of, on_terminal, say, say_aside, user_folder
from peergram.crypto.keys import SigningKey, fingerprint
from peergram.drivers.key_files import (
    KEY_FILE_VARIABLE,
    KEY_VARIABLE,
    key_from_environment,
    key_path,
    list_keys,
    load_key,
    make_key,
    read_key,
)
from peergram.drivers.private_files import cannot, write_new
from peergram.errors import UsageError
from peergram.identity import Identity

_NEEDS_ONE = "give a name, or --default for the key of programs without one"


@dataclass(frozen=True, slots=True)
class _Who:
    """An identity with the key that proves it, and where that is."""

    identity: Identity
    key: SigningKey
    place: str

    @property
    def is_key(self) -> bool:
        return self.identity.public_key_bytes is not None


@click.group(cls=GroupWithDefault, default="show", usage="[NAME] [--no-qr]")
def id() -> None:  # noqa: A001 (the command's name)
    """Show who you are to others, and manage keys.

    Without a name you are your key (gen: and 64 digits), which proves itself; it is made on first use. A name such as alice has a
    key of its own, by whose fingerprint others know it. On a terminal, a QR code with the same is drawn above; --no-qr leaves it
    out. A name that is also a command is given as str:new.

    \b
    Examples:
      peergram id                 # your key as an identity
      peergram id new alice       # a key for a name
      peergram id alice           # its fingerprint
    """


@id.command(hidden=True)
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--no-qr", is_flag=True, help="Text only.")
def show(name: str | None, no_qr: bool) -> int:
    """Show an identity with the fingerprint of its key."""
    who = _who(name, make=name is None)
    note = "" if no_qr else show_qr(_for_a_camera(who))
    _describe(who)
    if on_terminal():
        say("")
        if who.is_key:
            say("Others reach you by the first line; it proves itself.", "dim")
        else:
            say(f"Others can know {name_of(who.identity)} by this key before they meet:", "dim")
            say(f"  {_accept_command(who)}", "dim", whole=True)
        if note:
            say(note, "dim")
    return 0


@id.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--default", "is_default", is_flag=True, help="The key of programs that have no name.")
@click.option("--replace", is_flag=True, help="Although there is one; it is kept as a backup.")
@click.option("--from", "source", metavar="FILE", help="Take the key in this file (PEM) instead of a new one.")
def new(name: str | None, is_default: bool, replace: bool, source: str | None) -> int:
    """Make a key.

    One that is there is not touched, unless --replace is given.
    """
    if (name is not None) == is_default:
        raise UsageError(_NEEDS_ONE)
    identity = Identity.of(name) if name is not None else None
    if identity is not None and identity.public_key_bytes is not None:
        raise UsageError(f"{identity.printable} is itself a key, and no other can be made for it; give --default for a new one")
    path = key_path(identity, user_folder())
    before = _public_key_in(path)
    try:
        backup = make_key(path, load_key(source) if source is not None else None, replace=replace)
    except FileExistsError:
        raise Failure(
            f"There is a key of {_printable_name(identity)} already ({str(path)!r}); --replace puts a new one in its place and "
            "keeps it as a backup"
        ) from None
    key = read_key(path)
    who = _Who(identity if identity is not None else Identity.generic_bytes(key.public_bytes), key, str(path))
    _describe(who)
    if backup is not None:
        say(f"  old key      {backup}", whole=True)
        if before != key.public_bytes:
            if who.is_key:
                say_aside("This is another identity than before: whoever has the old one does not reach you by it.")
            else:
                say_aside(f"Whoever knows {name_of(who.identity)} by the old key refuses this one until they type:")
                say_aside(f"  {_accept_command(who)}", whole=True)
    if variable := _variable_in_use():
        say_aside(f"{variable} is set: as long as it is, programs use that key instead.")
    return 0


@id.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--out", "file", metavar="FILE", type=click.Path(path_type=Path), help="Write to a new file, for your eyes only.")
def export(name: str | None, file: Path | None) -> int:
    """Print a private key (PEM), to take it elsewhere.

    On the other machine: peergram id new NAME --from FILE, or set PEERGRAM_KEY_FILE.
    """
    who = _who(name, make=False)
    if file is None:
        click.echo(who.key.to_pem(), nl=False)
    else:
        try:
            write_new(file, who.key.to_pem())
        except FileExistsError:
            raise Failure(f"{str(file)!r} is there already, and is not overwritten") from None
        except (OSError, ValueError) as error:
            raise cannot(file, "the file", "be written", error) from None
        say(f"Written to {file}", whole=True)
    say_aside(f"Whoever has this private key is {who.identity.printable}: show it to nobody, and delete copies you do not need.")
    return 0


@id.command("list")
def list_() -> int:
    """List the keys of this user."""
    found = list_keys(user_folder())
    for one in found:
        if one.key is None:
            say_aside(one.problem)
            continue
        name = one.identity.printable if one.identity is not None else "(not a name of peergram's)"
        if on_terminal():
            say(name, "bold", whole=True)
            say(f"  {fingerprint(one.key.public_bytes)}  {one.path.name}", whole=True)
        else:
            say(f"{name} {fingerprint(one.key.public_bytes)} {one.path}", whole=True)
    if not found:
        say("There are no keys yet; peergram id makes one.")
    return 0


def _who(name: str | None, *, make: bool) -> _Who:
    """Who a program with this name, or without one, would be."""
    identity = Identity.of(name) if name is not None else None
    if key := key_from_environment():
        own = Identity.generic_bytes(key.public_bytes)
        if identity is not None and identity.public_key_bytes not in (None, key.public_bytes):
            raise UsageError(f"{_variable_in_use()} is set, and is not the key of {identity.printable}")
        return _Who(identity or own, key, f"from {_variable_in_use()}")
    path = key_path(identity, user_folder())
    if make:
        try:
            make_key(path)
            say_aside("A key was made for you.", "green")
        except FileExistsError:
            pass
    try:
        key = read_key(path)
    except FileNotFoundError:
        command = "peergram id" if identity is None else f"peergram id new {_argument(identity)}"
        raise Failure(f"There is no key of {_printable_name(identity)} yet; this makes one: {command}") from None
    return _Who(identity or Identity.generic_bytes(key.public_bytes), key, str(path))


def _describe(who: _Who) -> None:
    say(who.identity.printable, "bold", whole=True)
    say(f"  fingerprint  {fingerprint(who.key.public_bytes)}", whole=True)
    say(f"  key          {who.place}", whole=True)


def _for_a_camera(who: _Who) -> str:
    """What the QR code says: an identity that proves itself; or a name with its fingerprint, as in the file of known peers."""
    return who.identity.printable if who.is_key else f"{who.identity.printable} {fingerprint(who.key.public_bytes)}"


def _accept_command(who: _Who) -> str:
    return f"peergram known accept {_argument(who.identity)} {fingerprint(who.key.public_bytes)}"


def _argument(identity: Identity) -> str:
    """As it is typed in a shell."""
    name = identity.printable
    plain = name.removeprefix("str:")
    return shlex.quote(name if not plain or ":" in plain or plain.startswith("-") else plain)


def _printable_name(identity: Identity | None) -> str:
    return identity.printable if identity is not None else "programs without a name"


def _public_key_in(path: Path) -> bytes | None:
    try:
        return read_key(path).public_bytes
    except (FileNotFoundError, UsageError):
        return None


def _variable_in_use() -> str:
    return next((name for name in (KEY_VARIABLE, KEY_FILE_VARIABLE) if os.environ.get(name)), "")
