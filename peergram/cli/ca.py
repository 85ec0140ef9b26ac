"""`peergram ca`: make an authority, which says which key belongs to which name for all who trust it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from peergram.cli.terminal import printable, say
from peergram.crypto.authority import issue_authority
from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.crypto.trust import Scope, TrustStore
from peergram.drivers.authority_files import (
    PUBLIC_FILE,
    Authority,
    date_text,
    load_authority_key,
    make_authority,
    open_authority,
    read_authorities,
)
from peergram.drivers.system import secure_entropy
from peergram.wire.certificates import decode_certificate

DEFAULT_FOLDER = "authority"
DAY_S = 86_400
DAYS_MAX = 36_500

_PATH = click.Path(path_type=Path)


@click.group()
def ca() -> None:
    """Make an authority: somebody who says which key belongs to which name.

    Peers that are given its file (authority.txt) believe the certificates that `peergram cert issue` makes.
    """


@ca.command()
@click.argument("folder", metavar="[DIR]", type=_PATH, default=DEFAULT_FOLDER)
@click.option(
    "--key", metavar="FILE", type=_PATH, help="A private key to use, as ssh-keygen -t ed25519 makes it [default: a new one]."
)
@click.option("--comment", metavar="TEXT", default="", help="What people read beside the key in authority.txt.")
def init(folder: Path, key: Path | None, comment: str) -> int:
    """Make a new authority in DIR, a folder of that name here by default.

    DIR/authority.key is its private key: whoever has it can be anybody. Keep a copy where nobody else comes. DIR/authority.txt is
    for everybody.

    \b
    Examples:
      peergram ca init
      peergram ca init ~/our-club --comment "the club"
    """
    signing_key = SigningKey.generate(secure_entropy) if key is None else load_authority_key(key)
    made = make_authority(folder, signing_key, comment=" ".join(comment.split()))
    _say_made(made)
    say(f"Certify somebody with: peergram cert issue --ca {_shown(folder)} --identity NAME --key-file HIS-PUBLIC-KEY --out FILE")
    return 0


@ca.command()
@click.option(
    "--ca", "above", metavar="DIR", type=_PATH, default=DEFAULT_FOLDER, show_default=True, help="The authority above it."
)
@click.option("--out", "folder", metavar="DIR", type=_PATH, required=True, help="Where the new authority is made.")
@click.option(
    "--app", "apps", metavar="N", type=click.IntRange(0, (1 << 32) - 1), multiple=True,
    help="An app that it may vouch for (repeatable) [default: all that the one above may].",
)  # fmt: skip
@click.option(
    "--days", metavar="N", type=click.IntRange(1, DAYS_MAX), default=365, show_default=True, help="How long it may do so."
)
@click.option(
    "--key", metavar="FILE", type=_PATH, help="A private key to use, as ssh-keygen -t ed25519 makes it [default: a new one]."
)
def intermediate(above: Path, folder: Path, apps: tuple[int, ...], days: int, key: Path | None) -> int:
    """Make an authority that works in the name of another.

    Everyday work is done with its key, which can be revoked, while the key of the one above stays in a safe. Peers that trust the
    one above need the new authority.txt, too.

    \b
    Example:
      peergram ca intermediate --ca authority --out everyday --days 90
    """
    authority = open_authority(above)
    signing_key = SigningKey.generate(secure_entropy) if key is None else load_authority_key(key)
    now_s = int(time.time())
    signed = issue_authority(
        authority.key,
        subject_key=signing_key.public_bytes,
        app_ids=apps,
        created_s=now_s,
        expires_s=now_s + days * DAY_S,
        scope=authority.scope,
    )
    made = make_authority(folder, signing_key, above=authority.public, signed=signed)
    authority.note_issued(decode_certificate(signed.cert))
    _say_made(made)
    return 0


@ca.command()
@click.argument("path", metavar="[DIR|FILE]", type=_PATH, default=DEFAULT_FOLDER)
def show(path: Path) -> int:
    """Tell whom an authority.txt trusts and whom it distrusts."""
    file = path / PUBLIC_FILE if path.is_dir() else path
    public = read_authorities(file)
    store = TrustStore()
    public.put_into(store)
    for key, comment in public.roots:
        state = "" if key_id(key) in store.root_ids else ": revoked"
        say(f"root       {fingerprint(key)} {printable(comment)}{state}")
    for signed in public.certificates:
        certificate = decode_certificate(signed.cert)
        scope = store.scope_of(key_id(certificate.key_data))
        told = _scope_text(scope) if isinstance(scope, Scope) else f"not trusted: {scope}"
        say(f"authority  {fingerprint(certificate.key_data)} ID{key_id(certificate.key_data)} {told}")
    for number, remark in public.revoked:
        say(f"revoked    ID{number} {printable(remark)}".rstrip())
    if not store.root_ids:
        say("There is no root in it: by itself it makes nobody trusted.", "yellow")
    return 0


def _say_made(authority: Authority) -> None:
    public = authority.key.public_bytes
    say(f"An authority is in {_shown(authority.folder)}.", "green")
    say(f"  key {fingerprint(public)}, ID{key_id(public)}")
    if authority.scope.expiry_s is not None:
        say(f"  {_scope_text(authority.scope)}")
    say(f"Give {_shown(authority.folder / PUBLIC_FILE)} to all who shall trust it. The private key beside it is for nobody.")


def _scope_text(scope: Scope) -> str:
    apps = "all apps" if scope.app_ids is None else f"apps {', '.join(str(each) for each in sorted(scope.app_ids))}"
    return apps if scope.expiry_s is None else f"until {date_text(scope.expiry_s)}, for {apps}"


def _shown(path: Path) -> str:
    """For a command line."""
    return os.fspath(path) if " " not in os.fspath(path) else repr(os.fspath(path))
