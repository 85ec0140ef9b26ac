"""Files that only their owner should touch: looked at before they are believed, and written whole or not at all.

A file is opened first and judged by what was opened, so that nobody can exchange it between the two. Every defect is a UsageError
that names the file and, where a command helps, the command; contents never get into one.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import stat
import sys
from contextlib import suppress
from pathlib import Path

from peergram.errors import UsageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

READABLE_BY_OTHERS = 0o077
"""Any right at all for anybody else."""
WRITABLE_BY_OTHERS = 0o022

_OPEN = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | _NO_LINK
_LOCKED_BYTE = 1 << 30
"""Far behind the end: on Windows a locked part cannot be read by others."""
_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}


def open_private(path: Path, what: str, *, forbidden: int, follow_links: bool = False, to_lock: bool = False) -> int:
    """The file, open for reading. Raises FileNotFoundError if there is none, and UsageError for anything else that is wrong.

    `forbidden` are the rights that nobody else may have. Without `follow_links`, a symbolic link is refused: whoever may write
    in the folder could point it anywhere.
    """
    try:
        if not follow_links and not _NO_LINK and path.is_symlink():
            raise OSError(errno.ELOOP, "")
        file = _opened(path, _OPEN | (0 if follow_links else _NO_LINK), to_lock)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise cannot(path, what, "be read", error) from None
    try:
        _check(path, what, os.fstat(file), forbidden)
    except BaseException:
        os.close(file)
        raise
    return file


def read_all(file: int, path: Path, what: str, bytes_max: int) -> bytes:
    """The content of an open file. Raises UsageError if it is longer than that, or cannot be read."""
    content = b""
    try:
        while len(content) <= bytes_max and (more := os.read(file, bytes_max + 1 - len(content))):
            content += more
    except OSError as error:
        raise cannot(path, what, "be read", error) from None
    if len(content) > bytes_max:
        raise UsageError(f"{what} {str(path)!r} is larger than {bytes_max} bytes")
    return content


def make_private_folder(folder: Path) -> None:
    """Made with what is above it, for the owner only; into one that is there, no others may write. Raises OSError, UsageError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raises UsageError if others could exchange the files in it (in a folder such as /tmp they cannot), OSError."""
    if sys.platform != "win32":
        status = folder.stat()
        if status.st_mode & WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
            raise UsageError(f"others may write in the folder {str(folder)!r}; type: chmod 700 {shlex.quote(str(folder))}")
        _check_owner(folder, "the folder", status)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """A file, for the owner only, that was not there before, complete when it appears. Raises FileExistsError, OSError."""
    part = _write_part(path, content, mode)
    try:
        _publish(part, path)
    finally:
        part.unlink(missing_ok=True)
    _keep(path.parent)


def write_over(path: Path, content: bytes, mode: int = 0o600) -> None:
    """The same in place of what is there, if anything. Raises OSError."""
    part = _write_part(path, content, mode)
    try:
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _keep(path.parent)


def copy_name(path: Path, new: Path) -> None:
    """Gives a file a second name that was free. Raises FileExistsError, OSError."""
    try:
        os.link(path, new)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        write_new(new, path.read_bytes())


def lock_now(file: int) -> bool:
    """A lock until the file is closed; False if another holds it. True as well where the file system knows no locks."""
    try:
        if sys.platform == "win32":
            os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def is_still_at(path: Path, file: int) -> bool:
    """Whether the open file is the one that bears this name now."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file))
    except OSError:
        return False


def cannot(path: Path, what: str, do: str, error: Exception) -> UsageError:
    """`the key '…' cannot be read: Permission denied`, for raising."""
    if not isinstance(error, OSError):
        return UsageError(f"{what} {str(path)!r} cannot {do}: it is no possible name of a file")
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return UsageError(f"{what} {str(path)!r} is a symbolic link; it must be the file itself")
    return UsageError(f"{what} {str(path)!r} cannot {do}: {error.strerror or type(error).__name__}")


def _opened(path: Path, flags: int, to_lock: bool) -> int:
    """Network file systems lock only what may be written; a file that may not be is locked where that works."""
    if to_lock:
        try:
            return os.open(path, os.O_RDWR | flags)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
    return os.open(path, os.O_RDONLY | flags)


def _check(path: Path, what: str, status: os.stat_result, forbidden: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{what} {str(path)!r} is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{what} {str(path)!r} is no ordinary file")
    if sys.platform != "win32":
        _check_owner(path, what, status)
        if status.st_mode & forbidden:
            verb, command = ("write", "go-w") if forbidden == WRITABLE_BY_OTHERS else ("use", "600")
            raise UsageError(
                f"others may {verb} {what} {str(path)!r}, so it is not used; type: chmod {command} {shlex.quote(str(path))}"
            )


def _check_owner(path: Path, what: str, status: os.stat_result) -> None:
    if sys.platform != "win32" and os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:
        raise UsageError(f"{what} {str(path)!r} belongs to another user, who could change it at any time")


def _write_part(path: Path, content: bytes, mode: int) -> Path:
    part = path.with_name(f".{secrets.token_hex(8)}.new")
    file = os.open(part, _NEW, mode)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def _publish(part: Path, path: Path) -> None:
    """Renaming would replace what is there, and a link does not; but not every file system has links."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        part.rename(path)


def _keep(folder: Path) -> None:
    """A new name outlives a loss of power only once its folder is on the disk; where that cannot be asked for, so be it."""
    if sys.platform != "win32":
        with suppress(OSError):
            file = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
