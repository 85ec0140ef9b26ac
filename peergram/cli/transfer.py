"""How `peergram send` and `peergram receive` talk: reliable messages on one channel, the first byte says which kind.

The sender says `F` (JSON: name, size_bytes), then `D` (data) as often as needed, then `E` (JSON: sha256). The receiver answers
once, as soon as the end is clear, with `R` (JSON: saved_as and sha256, or error).
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from peergram.cli.terminal import printable

CHANNEL = 70
CHUNK_BYTES = 128 * 1024
FILE, DATA, END, RESULT = b"F", b"D", b"E", b"R"

_JSON_BYTES_MAX = 4_096
_NAME_BYTES_MAX = 255
_SIZE_BYTES_MAX = 1 << 62
_NUMBERS_TRIED_MAX = 10_000
# What Windows does not take in a name, or takes for a device.
_WINDOWS_FORBIDDEN = str.maketrans(dict.fromkeys('<>:"|?*', "_"))
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


class TransferError(Exception):
    """The transfer cannot go on; the text says why, for both sides."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a sender announces."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TransferResult:
    """What a receiver answers: saved under that name with that hash, or an error."""

    error: str = ""
    saved_as: str = ""
    sha256: str = ""


def encode_file(header: FileHeader) -> bytes:
    return FILE + _json(name=header.name, size_bytes=header.size_bytes)


def decode_file(message: bytes) -> FileHeader:
    """Raises TransferError for anything but a header with a usable name."""
    fields = _fields(message, FILE)
    name, size_bytes = fields.get("name"), fields.get("size_bytes")
    if type(size_bytes) is not int or not 0 <= size_bytes <= _SIZE_BYTES_MAX:
        raise TransferError("the sender announced no valid size")
    return FileHeader(checked_name(name), size_bytes)


def encode_end(sha256: str) -> bytes:
    return END + _json(sha256=sha256)


def decode_end(message: bytes) -> str:
    return str(_fields(message, END).get("sha256"))


def encode_result(result: TransferResult) -> bytes:
    return RESULT + _json(error=result.error, saved_as=result.saved_as, sha256=result.sha256)


def decode_result(message: bytes) -> TransferResult:
    fields = _fields(message, RESULT)
    return TransferResult(*(printable(str(fields.get(name, ""))) for name in ("error", "saved_as", "sha256")))


def sendable_name(path: Path) -> str:
    """The base name, with what a receiver would refuse replaced."""
    name = "".join(c if c.isprintable() and c != "\\" else "_" for c in path.resolve().name)
    return name.encode("utf-8", "replace")[:_NAME_BYTES_MAX].decode("utf-8", "ignore") or "file"


def checked_name(name: object) -> str:
    """A base name that is safe to create; raises TransferError for one that leads elsewhere or hides its file."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name.encode()) > _NAME_BYTES_MAX:
        raise TransferError("the sender announced no usable file name")
    if "/" in name or "\\" in name or name in (".", ".."):
        raise TransferError(f"the file name {printable(name)!r} contains a path: only plain names are accepted")
    if name.startswith("."):
        name = "_" + name
    if os.name == "nt":
        name = name.translate(_WINDOWS_FORBIDDEN).rstrip(". ") or "_"
        name = "_" + name if name.split(".")[0].lower() in _WINDOWS_DEVICES else name
    return name


@contextmanager
def new_file(folder: Path, name: str) -> Iterator[tuple[Path, BinaryIO]]:
    """A file that does not exist yet, `name` or `name (2)` and so on; it has its content only if the block ends well.

    Meanwhile an empty file holds the name and the data is in a neighbour called `.part`. Raises OSError.
    """
    made: list[Path] = []
    try:
        with _interrupts_held():
            path, part, file = _reserve(folder, name, made)
        with file:
            yield path, file
        os.replace(part, path)
    except BaseException:
        with _interrupts_held():
            for leftover in made:
                leftover.unlink(missing_ok=True)
        raise


def _reserve(folder: Path, name: str, made: list[Path]) -> tuple[Path, Path, BinaryIO]:
    """Make the file that holds the name and the one for the data; what was made is in `made`, whatever happens."""
    for number in range(1, _NUMBERS_TRIED_MAX):
        path = folder / (name if number == 1 else _numbered(name, number))
        part = path.with_name(path.name + ".part")
        if part.exists():
            continue
        with suppress(FileExistsError):
            path.touch(exist_ok=False)
            made.append(path)
            file = open(part, "xb")  # noqa: SIM115 (the caller closes it)
            made.append(part)
            return path, part, file
    raise FileExistsError(f"{folder} has too many files called {name}")


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C counts after the block only, so that it cannot fall between making a file and remembering to remove it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _numbered(name: str, number: int) -> str:
    stem, dot, ending = name.rpartition(".")
    return f"{stem} ({number}).{ending}" if dot and stem else f"{name} ({number})"


def _json(**fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")


def _fields(message: bytes, kind: bytes) -> dict[str, Any]:
    """The fields of a message of this kind, which a stranger has written."""
    if message[:1] != kind or len(message) > _JSON_BYTES_MAX:
        raise TransferError("the other side does not talk like peergram send and receive of this version")
    try:
        fields = json.loads(message[1:])
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise TransferError("the other side sent a message that cannot be read")
    return fields
