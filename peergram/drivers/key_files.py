"""Private keys in files: one for each identity, made on first use, and locked while a program uses it.

They lie in `keys/` of the user's folder: `default.key` for programs without a name, `str%3aalice.key` for `str:alice`. Two
programs of one identity would take each other's sessions, so the second is refused; of those without a name, each gets a key of
its own. A file is PKCS8 PEM, which OpenSSL reads, for the owner's eyes only; one that others may use is refused, and so is a
symbolic link.

A file outside that folder is given by its path, or in the environment. It may be a link, since whoever gives it names it, and is
not locked: it may lie where nothing can be written, or serve many machines, and who uses it is for its owner to say.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from peergram.config import KEY_FILE_BYTES_MAX, KEY_FILES_DEFAULT_MAX, KEY_FILES_LISTED_MAX
from peergram.crypto.keys import KEY_BYTES, SigningKey
from peergram.drivers.private_files import (
    READABLE_BY_OTHERS,
    cannot,
    check_folder,
    copy_name,
    is_still_at,
    lock_now,
    make_private_folder,
    open_private,
    read_all,
    write_new,
    write_over,
)
from peergram.errors import IdentityInUseError, UsageError
from peergram.identity import Identity

KEY_VARIABLE, KEY_FILE_VARIABLE = "PEERGRAM_KEY", "PEERGRAM_KEY_FILE"

_SUFFIX = ".key"
_DEFAULT = "default"
_DEFAULT_NAME = re.compile(rf"{_DEFAULT}(-[0-9]+)?{re.escape(_SUFFIX)}")
_WHAT = "the key"
_NAME_CHARACTERS_MAX = 200
"""File systems take 255 bytes; backups have a longer suffix."""
_ATTEMPTS = 10
"""How often a file may be exchanged just while it is opened."""
_BACKUPS_MAX = 1_000
_KEY_LIKE = re.compile(r"[0-9A-Za-z+/=_-]{40,}\s*")
"""Text that may be a key, or a part of one, in some spelling."""
_HEX_KEY = re.compile(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}")
_BEGINNING = "-----BEGIN"
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")


class HeldKey:
    """A key in use. The lock on its file, if it has one, is held until `release` or the end of the program."""

    def __init__(self, key: SigningKey, path: Path | None = None, file: int = -1) -> None:
        self.key = key
        self.path = path
        self._file = file
        if file >= 0:
            _held.add(self)

    def release(self) -> None:
        """Let other programs have it. Harmless when repeated. In a forked child it lets go of nothing that the parent holds."""
        file, self._file = self._file, -1
        _held.discard(self)
        if file >= 0:
            # Not unlocked: that would reach the parent's lock from a forked child.
            with suppress(OSError):
                os.close(file)

    def __repr__(self) -> str:
        return f"<HeldKey {self.key!r} {str(self.path) if self.path else 'of no file'}>"


_held: set[HeldKey] = set()


def _release_all() -> None:
    """In a forked child: keys are held no longer than the parent, who may end first, wants them."""
    for held in list(_held):
        held.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One file of the folder, as a list shows it."""

    path: Path
    identity: Identity | None
    """Whose; None if that cannot be told."""
    key: SigningKey | None
    problem: str
    """Why there is no key; empty if there is one."""


def hold_key_of(identity: Identity | None, folder: Path) -> HeldKey:
    """The key of that identity, made if there is none, for this program alone; without an identity, one that is free.

    For a `gen:` identity that is a key, the file with that very key. Raises IdentityInUseError, or UsageError if a file cannot be
    used or made.
    """
    keys = _made_folder(folder)
    if identity is None:
        for number in range(1, KEY_FILES_DEFAULT_MAX + 1):
            if held := _hold(keys / _default_name(number), make=True):
                return held
        raise IdentityInUseError(
            f"all {KEY_FILES_DEFAULT_MAX} keys for programs without a name are in use by programs on this machine: "
            "end one of them, or give this one a name"
        )
    path = _file_of_key(identity, keys) if identity.public_key_bytes else key_path(identity, folder)
    held = _hold(path, make=identity.public_key_bytes is None)
    if held is None:
        raise _in_use(identity.printable)
    return held


def key_path(identity: Identity | None, folder: Path) -> Path:
    """Where the key of an identity is, or would be. For a `gen:` identity that is a key, raises UsageError if it is nowhere."""
    keys = folder / "keys"
    if identity is None:
        return keys / _default_name(1)
    if not identity.is_valid:
        raise UsageError("nobody is no identity that could have a key")
    return _file_of_key(identity, keys) if identity.public_key_bytes else keys / _file_name(identity)


def read_key(path: Path) -> SigningKey:
    """The key in a file of the folder, whoever holds it. Raises FileNotFoundError, UsageError."""
    file = open_private(path, _WHAT, forbidden=READABLE_BY_OTHERS)
    try:
        return _key_in(read_all(file, path, _WHAT, KEY_FILE_BYTES_MAX), path)
    finally:
        os.close(file)


def make_key(path: Path, key: SigningKey | None = None, *, replace: bool = False) -> Path | None:
    """A new key, or this one, as a file of the folder; returns where the one before is kept now, if there was one.

    Raises FileExistsError if there is one and it is not to be replaced, IdentityInUseError if a program uses it, UsageError.
    """
    content = (key if key is not None else SigningKey.generate(os.urandom)).to_pem()
    try:
        make_private_folder(path.parent.parent)
        make_private_folder(path.parent)
        if not replace or not os.path.lexists(path):
            write_new(path, content)
            return None
        return _replace(path, content)
    except FileExistsError:
        raise
    except OSError as error:
        raise _cannot_keep(path, error) from None


def list_keys(folder: Path) -> list[KeyFile]:
    """Every key file of the folder, the default ones first; those that cannot be used with the reason. Raises UsageError."""
    keys = folder / "keys"
    try:
        check_folder(keys)
        names = sorted(name for name in os.listdir(keys) if name.endswith(_SUFFIX))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise cannot(keys, "the folder", "be read", error) from None
    names.sort(key=lambda name: not _is_default(name))
    return [_looked_at(keys / name) for name in names[:KEY_FILES_LISTED_MAX]]


def load_key(source: bytes | str | os.PathLike[str]) -> SigningKey:
    """A key from elsewhere: 32 bytes, or PEM, as bytes; or the path of a PEM file, which is not locked. Raises UsageError.

    A file that others may use is refused here, too; a link is followed.
    """
    if isinstance(source, bytes):
        if len(source) == KEY_BYTES:
            return SigningKey(source)
        if _BEGINNING.encode() not in source:
            raise UsageError(f"a key in bytes is {KEY_BYTES} of them, or the text of a PEM file; these are {len(source)} others")
        return _key_from_pem(source, "what was given as a key")
    name = os.fspath(source)
    if not isinstance(name, str):
        raise UsageError("the path of a key file is a text, not bytes")
    path = Path(name)
    # Such a text would appear in the sentence that says that there is no file of this name.
    is_elsewhere = path.parent != Path() and os.path.isdir(path.parent)
    is_key_like = _KEY_LIKE.fullmatch(name) and not is_elsewhere and not os.path.exists(path)
    if not name or _BEGINNING in name or _HEX_KEY.fullmatch(name.strip()) or is_key_like:
        raise UsageError("a key is given as bytes, or as the path of its file; this text is no path")
    try:
        file = open_private(path, _WHAT, forbidden=READABLE_BY_OTHERS, follow_links=True)
    except FileNotFoundError:
        raise UsageError(f"there is no file {str(path)!r} to read a key from") from None
    try:
        return _key_in(read_all(file, path, _WHAT, KEY_FILE_BYTES_MAX), path)
    finally:
        os.close(file)


def key_from_environment() -> SigningKey | None:
    """What `PEERGRAM_KEY` (64 hexadecimal digits, or PEM) or `PEERGRAM_KEY_FILE` says; None if neither does.

    Raises UsageError if both do, or what they say is no key.
    """
    text, name = os.environ.get(KEY_VARIABLE, "").strip(), os.environ.get(KEY_FILE_VARIABLE, "")
    if text and name:
        raise UsageError(f"{KEY_VARIABLE} and {KEY_FILE_VARIABLE} are both set: unset one of them")
    if name:
        try:
            return load_key(name)
        except UsageError as error:
            raise UsageError(f"{KEY_FILE_VARIABLE}: {error}") from None
    if not text:
        return None
    if _HEX_KEY.fullmatch(text):
        return SigningKey(bytes.fromhex(text))
    if _BEGINNING not in text:
        raise UsageError(f"{KEY_VARIABLE} must be {2 * KEY_BYTES} hexadecimal digits, or the text of a PEM file")
    # Files of settings often have no way to write an end of line but this.
    return _key_from_pem(text.replace("\\n", "\n").encode("utf-8", "replace"), KEY_VARIABLE)


def _made_folder(folder: Path) -> Path:
    keys = folder / "keys"
    try:
        make_private_folder(folder)
        make_private_folder(keys)
    except OSError as error:
        raise _cannot_keep(keys, error) from None
    return keys


def _cannot_keep(path: Path, error: OSError) -> UsageError:
    sentence = str(cannot(path, "keys:" if path.suffix != _SUFFIX else _WHAT, "be kept", error))
    return UsageError(f"{sentence}; set PEERGRAM_HOME to a folder that can be written, or {KEY_FILE_VARIABLE} to a key")


def _default_name(number: int) -> str:
    return f"{_DEFAULT}{_SUFFIX}" if number == 1 else f"{_DEFAULT}-{number}{_SUFFIX}"


def _is_default(name: str) -> bool:
    return _DEFAULT_NAME.fullmatch(name) is not None


def _file_name(identity: Identity) -> str:
    """The text, with a percent sign and two digits for all but these: some systems know no capitals, and no colons, in names."""
    quoted = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in identity.text_bytes)
    if len(quoted) > _NAME_CHARACTERS_MAX:
        quoted = f"{quoted[:40].rpartition('%')[0]}~{hashlib.sha256(identity.text_bytes).hexdigest()[:32]}"
    return quoted + _SUFFIX


def _identity_of(name: str, key: SigningKey | None) -> Identity | None:
    if _is_default(name):
        return Identity.generic_bytes(key.public_bytes) if key is not None else None
    with suppress(UsageError):
        identity = Identity.parse_bytes(unquote_to_bytes(name.removesuffix(_SUFFIX)))
        if _file_name(identity) == name:
            return identity
    return None


def _file_of_key(identity: Identity, keys: Path) -> Path:
    for found in list_keys(keys.parent):
        if found.key is not None and found.key.public_bytes == identity.public_key_bytes:
            return found.path
    raise UsageError(
        f"the private key of {identity.printable} is not in {str(keys)!r}, and no other can prove this identity: "
        "give its file, or leave out the identity to be known by a key that is here"
    )


def _looked_at(path: Path) -> KeyFile:
    """Not locked, not even to see whether it is in use: a program that starts just then would be refused."""
    try:
        key = read_key(path)
    except FileNotFoundError:
        return KeyFile(path, _identity_of(path.name, None), None, f"{_WHAT} {str(path)!r} was just deleted")
    except UsageError as error:
        return KeyFile(path, _identity_of(path.name, None), None, str(error))
    return KeyFile(path, _identity_of(path.name, key), key, "")


def _hold(path: Path, *, make: bool) -> HeldKey | None:
    """None if another holds it."""
    for _ in range(_ATTEMPTS):
        try:
            file = open_private(path, _WHAT, forbidden=READABLE_BY_OTHERS, to_lock=True)
        except FileNotFoundError:
            if make:
                # Another program may be quicker; then its key is the one.
                with suppress(FileExistsError):
                    make_key(path)
                continue
            break
        held = None
        try:
            if not lock_now(file):
                return None
            # Whoever replaced it held the lock until then.
            if is_still_at(path, file):
                held = HeldKey(_key_in(read_all(file, path, _WHAT, KEY_FILE_BYTES_MAX), path), path, file)
                return held
        finally:
            if held is None:
                os.close(file)
    raise UsageError(f"{_WHAT} {str(path)!r} was taken away while it was opened; try again")


def _replace(path: Path, content: bytes) -> Path:
    try:
        file = open_private(path, _WHAT, forbidden=0, to_lock=True)
    except FileNotFoundError:
        raise UsageError(f"{_WHAT} {str(path)!r} was taken away meanwhile; try again") from None
    try:
        if not lock_now(file):
            raise _in_use(f"{_WHAT} {str(path)!r}")
        for number in range(1, _BACKUPS_MAX):
            backup = path.with_name(f"{path.name}.old" if number == 1 else f"{path.name}.old-{number}")
            with suppress(FileExistsError):
                copy_name(path, backup)
                backup.chmod(0o600)
                break
        else:
            raise UsageError(f"{_WHAT} {str(path)!r} has {_BACKUPS_MAX} backups beside it; delete some")
        if os.name == "nt":
            # Files that are open cannot be replaced there.
            os.close(file)
            file = -1
        write_over(path, content)
    finally:
        if file >= 0:
            os.close(file)
    return backup


def _in_use(who: str) -> IdentityInUseError:
    return IdentityInUseError(
        f"{who} is in use by another program on this machine, or in this one a second time: end that first, or use another name; "
        "two programs of one identity would take each other's sessions"
    )


def _key_in(content: bytes, path: Path) -> SigningKey:
    if not content.strip():
        raise UsageError(f"{_WHAT} file {str(path)!r} is empty")
    return _key_from_pem(content, f"{_WHAT} file {str(path)!r}")


def _key_from_pem(text: bytes, where: str) -> SigningKey:
    try:
        return SigningKey.from_pem(text)
    except UsageError as error:
        raise UsageError(f"{where} {error}") from None
