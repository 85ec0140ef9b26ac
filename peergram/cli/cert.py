"""`peergram cert`: certificates, which say that a key belongs to a name; issued by an authority that `peergram ca` made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from peergram.cli.ca import DAY_S, DAYS_MAX, DEFAULT_FOLDER
from peergram.cli.terminal import printable, say
from peergram.config import CERTIFICATE_AHEAD_S_MAX
from peergram.crypto.authority import issue_certificate
from peergram.crypto.authority_text import parse_key_name
from peergram.crypto.keys import KEY_BYTES, SigningKey, fingerprint, key_id
from peergram.crypto.trust import TrustStore
from peergram.drivers.authority_files import (
    PUBLIC_FILE,
    Authority,
    date_text,
    load_authorities,
    load_certificates,
    load_public_key,
    load_request,
    open_authority,
    write_new,
)
from peergram.drivers.config_folder import config_folder
from peergram.drivers.key_files import key_path, read_key
from peergram.drivers.system import secure_entropy
from peergram.errors import UsageError, WireError
from peergram.identity import Identity
from peergram.wire.certificate_text import write_certificate, write_request
from peergram.wire.certificates import (
    KEY_TYPE_ED25519,
    Certificate,
    StoredCertificate,
    decode_certificate,
    encode_certificate_request,
    encode_stored_certificate,
    read_identity,
    unknown_certificate_fields,
    write_identity,
)

APP_ID = 0
"""What peers of this library use, and those of the reference without Steam."""
FIELD_NAMES = {13: "IP addresses"}
_U32 = click.IntRange(0, (1 << 32) - 1)
_PATH = click.Path(path_type=Path)


@click.group()
def cert() -> None:
    """Issue, inspect and revoke certificates: each says that a key belongs to a name."""


@cert.command()
@click.option("--ca", "folder", metavar="DIR", type=_PATH, default=DEFAULT_FOLDER, show_default=True, help="The authority.")
@click.option("--identity", "names", metavar="NAME", multiple=True, help="Whose key it is, such as str:alice (repeatable).")
@click.option(
    "--key-file",
    metavar="FILE",
    type=_PATH,
    help="His key: an OpenSSH or PEM file, or 64 hex digits; the public half will do. [default: yours]",
)
@click.option("--from-request", metavar="FILE", type=_PATH, help="A request that he made.")
@click.option("--new-key", is_flag=True, help="Make a key for him, and put it beside the certificate.")
@click.option(
    "--app",
    "apps",
    metavar="N",
    type=_U32,
    multiple=True,
    default=(APP_ID,),
    show_default=True,
    help="For which app (repeatable).",
)
@click.option("--days", metavar="N", type=click.IntRange(1, DAYS_MAX), default=365, show_default=True, help="How long it holds.")
@click.option("--out", "path", metavar="FILE", type=_PATH, required=True, help="The file to make.")
@click.option("--binary", is_flag=True, help="Bytes rather than text, as SetCertificate of the reference takes them.")
def issue(
    folder: Path,
    names: tuple[str, ...],
    key_file: Path | None,
    from_request: Path | None,
    new_key: bool,
    apps: tuple[int, ...],
    days: int,
    path: Path,
    binary: bool,
) -> int:
    """Certify that a key belongs to a name.

    A request can be made by anybody in any name, and a key file can be sent by anybody: make sure that they come from whom you
    certify, by comparing fingerprints, for example.

    \b
    Examples:
      peergram cert issue --identity str:alice --from-request alice.request --out alice.cert
      peergram cert issue --identity str:alice --key-file alice.pub --out alice.cert
      peergram cert issue --identity str:server --new-key --days 90 --out server.cert
    """
    if sum((key_file is not None, from_request is not None, new_key)) > 1:
        raise UsageError("whose key? Give one of --key-file, --from-request and --new-key, or none for your own key of that name")
    identities = list(dict.fromkeys(Identity.of(name) for name in names))
    made_key = SigningKey.generate(secure_entropy) if new_key else None
    if made_key is not None:
        key = made_key.public_bytes
    elif key_file is not None:
        key = load_public_key(key_file)
    elif from_request is None:
        key = _own_key(identities)
    else:
        key, identities = _of_request(from_request, identities)
    if not identities:
        raise UsageError("for whom? Give --identity, such as --identity str:alice")
    if binary and len(identities) > 1:
        raise UsageError("with --binary a file holds one certificate, and each certificate one identity: give one --identity")
    authority = open_authority(folder)
    stored = _issue(authority, identities, key, made_key, apps, days)
    content = encode_stored_certificate(stored[0]) if binary else "".join(map(write_certificate, stored)).encode()
    certificates = [decode_certificate(each.signed.cert) for each in stored]
    if path.parent.is_dir() and not os.path.lexists(path):
        # First, so that none is ever out that cannot be revoked by its name.
        for certificate in certificates:
            authority.note_issued(certificate)
    write_new(path, content, is_private=made_key is not None)
    for certificate in certificates:
        say(
            f"Certified: {_who(certificate)} has the key {fingerprint(key)}, until {date_text(certificate.time_expiry)}.", "green"
        )
    private = " with his private key, which only he may get" if made_key is not None else ""
    say(f"{str(path)!r} holds {'the certificate' if len(stored) == 1 else f'{len(stored)} certificates'}{private}.")
    return 0


@cert.command()
@click.option("--identity", "name", metavar="NAME", help="Who wants it, such as str:alice.", required=True)
@click.option(
    "--key-file",
    metavar="FILE",
    type=_PATH,
    help="The key to be certified; the public half will do. [default: your key of that name]",
)
@click.option("--out", "path", metavar="FILE", type=_PATH, required=True, help="The file to make.")
@click.option("--binary", is_flag=True, help="Bytes rather than text, as GetCertificateRequest of the reference gives them.")
def request(name: str, key_file: Path | None, path: Path, binary: bool) -> int:
    """Ask for a certificate: write what an authority needs to know, for `peergram cert issue --from-request`."""
    who = Identity.of(name)
    key = load_public_key(key_file) if key_file is not None else _own_key([who])
    wanted = Certificate(KEY_TYPE_ED25519, key, write_identity(who))
    content = encode_certificate_request(wanted) if binary else write_request(wanted).encode()
    write_new(path, content, is_private=False)
    say(f"{str(path)!r} asks for {_who(wanted)} with the key {fingerprint(key)}.")
    say("Tell the authority this fingerprint by another way than you send the file.")
    return 0


def _own_key(identities: list[Identity]) -> bytes:
    """The public half of this user's key of that name."""
    folder = config_folder()
    if len(identities) != 1 or folder is None:
        raise UsageError("whose key? Give --key-file, --from-request or --new-key")
    (who,) = identities
    try:
        return read_key(key_path(who, folder)).public_bytes
    except FileNotFoundError:
        name = printable(who.text)
        raise UsageError(
            f"you have no key of {name} yourself: give --key-file, --from-request or --new-key, "
            f"or make one by peergram id new {name}"
        ) from None


@cert.command()
@click.argument("path", metavar="FILE", type=_PATH)
@click.option(
    "--authority", "authorities", metavar="FILE", type=_PATH, multiple=True, help="Whom you trust: an authority.txt (repeatable)."
)
def inspect(path: Path, authorities: tuple[Path, ...]) -> int:
    """Tell what is in a certificate, and with --authority whether it holds. Exits with 1 if it does not."""
    store = load_authorities(authorities) if authorities else None
    now_s = int(time.time())
    found = load_certificates(path)
    is_good = True
    for number, stored in enumerate(found, 1):
        if len(found) > 1:
            say(f"Certificate {number} of {len(found)}")
        for line in describe_certificate(stored, now_s):
            say(line)
        defects = find_defects(stored, store, now_s)
        is_good = is_good and not defects
        for defect in defects:
            say(f"Not valid: {defect}", "red")
        if not defects and store is not None:
            say("Valid.", "green")
        elif not defects:
            say("Nothing wrong is to be seen; give --authority to know whether it is to be believed.")
    return 0 if is_good else 1


@cert.command()
@click.argument("who", metavar="KEY|NAME|FILE")
@click.option("--ca", "folder", metavar="DIR", type=_PATH, default=DEFAULT_FOLDER, show_default=True, help="The authority.")
@click.option("--reason", metavar="TEXT", default="", help="For people who read the file.")
def revoke(who: str, folder: Path, reason: str) -> int:
    """Never let a key in again: by its fingerprint or id, by the name it was certified for, or by a file with its certificate.

    Everything ever certified for that key ends, whichever authority did it. Peers hear of it when they get the new authority.txt.
    """
    authority = open_authority(folder)
    keys, about = _keys_to_revoke(authority, who)
    for key in keys:
        if authority.revoke(key, f"{about} {reason}", time.time()):
            say(f"Revoked: {key}", "green")
        else:
            say(f"{key} was revoked before.")
    say(f"Give {str(folder / PUBLIC_FILE)!r} to all who have it: what they have does not know of this.")
    return 0


def describe_certificate(stored: StoredCertificate, now_s: int) -> list[str]:
    """What it says, one thing a line."""
    signed = stored.signed
    try:
        certificate = decode_certificate(signed.cert)
    except WireError as error:
        return [f"  unreadable: {error}"]
    apps = ", ".join(str(app_id) for app_id in certificate.app_ids) or "all"
    lines = [
        f"  for        {'an authority' if _who(certificate) == NOBODY else _who(certificate)}",
        f"  key        {fingerprint(certificate.key_data)}",
        f"  key id     {key_id(certificate.key_data)}",
        f"  made       {_moment(certificate.time_created, now_s)}",
        f"  expires    {_moment(certificate.time_expiry, now_s)}",
        f"  apps       {apps}",
    ]
    if certificate.datacenter_ids:
        lines.append(f"  data cent. {', '.join(location_text(each) for each in certificate.datacenter_ids)}")
    lines.append(f"  signed by  {signed.ca_key_id if signed.ca_key_id else 'nobody: anybody could have made it'}")
    if stored.private_key is not None:
        lines.append("  The private key is beside it: this file is for its owner only.")
    return lines


def find_defects(stored: StoredCertificate, store: TrustStore | None, now_s: int) -> list[str]:
    """Why it will not do, as far as can be told; with a store, whether somebody trusted vouches for it."""
    signed = stored.signed
    try:
        certificate = decode_certificate(signed.cert)
        read_identity(certificate.identity_fields)
    except WireError as error:
        return [f"{error}."]
    found = []
    if certificate.key_type != KEY_TYPE_ED25519 or len(certificate.key_data) != KEY_BYTES:
        found.append("Its key is not an Ed25519 key.")
    ahead_s = certificate.time_created - now_s
    if ahead_s > CERTIFICATE_AHEAD_S_MAX:
        found.append(f"It was created in the future, by {_span(ahead_s)}: is this machine's clock right?")
    if certificate.time_expiry < now_s:
        found.append(f"It expired {_span(now_s - certificate.time_expiry)} ago.")
    if unknown := unknown_certificate_fields(signed.cert):
        fields = ", ".join(f"{each} ({FIELD_NAMES[each]})" if each in FIELD_NAMES else str(each) for each in unknown)
        found.append(f"It holds fields that may restrict it, and are not understood: {fields}.")
    if not signed.ca_signature or not signed.ca_key_id:
        found.append("No authority signed it.")
    if _who(certificate) != NOBODY and APP_ID not in certificate.app_ids:
        found.append(f"It is not for app {APP_ID}, which peers here use.")
    if store is not None and not found:
        found += _doubts_of(stored, certificate, store, now_s)
    return found


def _doubts_of(stored: StoredCertificate, certificate: Certificate, store: TrustStore, now_s: int) -> list[str]:
    verdict = store.check_leaf(stored.signed, now_s)
    if verdict.scope is None:
        return [f"{verdict.text}."]
    if _who(certificate) != NOBODY and not verdict.scope.allows_app(APP_ID):
        return [f"Its authority may not vouch for app {APP_ID}."]
    return []


NOBODY = "nobody"


def _who(certificate: Certificate) -> str:
    try:
        identity = read_identity(certificate.identity_fields)
    except WireError as error:
        return printable(f"an identity that is none ({error})")
    return NOBODY if identity is None else identity.printable


def _of_request(path: Path, identities: list[Identity]) -> tuple[bytes, list[Identity]]:
    """The key to certify, and for whom: the identities given, else the one that the request names."""
    wanted = load_request(path)
    if wanted.key_type != KEY_TYPE_ED25519 or len(wanted.key_data) != KEY_BYTES:
        raise UsageError(f"request {str(path)!r}: its key is not an Ed25519 key")
    try:
        asked = read_identity(wanted.identity_fields)
    except WireError as error:
        raise UsageError(f"request {str(path)!r}: {error}") from None
    if asked is not None and identities and asked not in identities:
        raise UsageError(f"the request is for {asked.printable}, not for {identities[0].printable}")
    return wanted.key_data, identities or ([] if asked is None else [asked])


def _issue(
    authority: Authority, identities: list[Identity], key: bytes, private: SigningKey | None, apps: tuple[int, ...], days: int
) -> list[StoredCertificate]:
    now_s = int(time.time())
    return [
        StoredCertificate(
            issue_certificate(
                authority.key,
                subject_key=key,
                identity=identity,
                app_ids=apps,
                created_s=now_s,
                expires_s=now_s + days * DAY_S,
                scope=authority.scope,
            ),
            None if private is None else private.private_bytes(),
        )
        for identity in identities
    ]


def _keys_to_revoke(authority: Authority, who: str) -> tuple[list[str], str]:
    """Names of keys, and what to remark."""
    if parse_key_name(who) is not None:
        return [who], ""
    try:
        name = Identity.of(who)
        if keys := authority.keys_of(name):
            return keys, name.printable
        problem = f"nothing was issued here for {name.printable}: give a fingerprint, a key's id, or a file"
    except UsageError as error:
        # Most paths are too long for a name.
        problem = str(error)
    if not Path(who).is_file():
        raise UsageError(problem)
    found = [decode_certificate(stored.signed.cert) for stored in load_certificates(who)]
    return list(dict.fromkeys(fingerprint(each.key_data) for each in found)), " ".join(map(_who, found))


def location_text(number: int) -> str:
    """A data center as the reference writes it: three or four letters, or a number where it has none."""
    whole = number.to_bytes(4, "big")
    code = (whole[1:] + whole[:1]).rstrip(b"\0")
    return code.decode("ascii") if len(code) >= 3 and code.isalnum() else str(number)


def _moment(unix_s: int, now_s: int) -> str:
    if not unix_s:
        return "never said"
    ahead_s = unix_s - now_s
    return f"{date_text(unix_s)} ({f'in {_span(ahead_s)}' if ahead_s >= 0 else f'{_span(-ahead_s)} ago'})"


def _span(seconds: int) -> str:
    for unit, size_s in (("day", DAY_S), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds // size_s} {unit}s"
    return f"{seconds} s"
