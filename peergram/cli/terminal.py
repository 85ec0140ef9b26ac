"""How the commands talk to people: two consoles, one kind of failure, and text of strangers made harmless."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from peergram.drivers.config_folder import HOME_VARIABLE, config_folder
from peergram.events import ConnectionInfo, SessionRequested
from peergram.identity import Identity
from peergram.messages import Messages

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_UNITS = ("kB", "MB", "GB", "TB")
_PROOFS = {
    "key": "proven: the identity is the key itself",
    "certificate": "proven by a certificate of an authority you trust",
    "pinned": "proven: the key that you know this name with",
    "first_contact": "not proven: the first contact; from now on this key belongs to the name",
    "nothing": "not proven: anybody can claim this name",
}


class Failure(Exception):
    """It did not work; the text says why and what to do."""


def say(text: str, style: str = "", *, whole: bool = False) -> None:
    """One line, never interpreted; wrapped between words, but only on a terminal, and not if it is to be copied `whole`."""
    out.print(Text(text, style=style), soft_wrap=whole or not on_terminal())


def say_over_interrupt(text: str) -> None:
    """One line where a terminal may just have shown `^C`."""
    if on_terminal():
        out.control(Control((ControlType.CARRIAGE_RETURN,)))
    say(text)


def say_error(text: str) -> None:
    """One red line on the error output."""
    err.print(Text(text, style="red"), soft_wrap=not sys.stderr.isatty())


def say_aside(text: str, style: str = "yellow", *, whole: bool = False) -> None:
    """One line on the error output, where it does not get into a file or another program."""
    err.print(Text(text, style=style), soft_wrap=whole or not sys.stderr.isatty())


def printable(text: str) -> str:
    """Text of a stranger without anything that could move the cursor or change colours."""
    return "".join(c if c.isprintable() else "�" for c in text)


def name_of(identity: Identity) -> str:
    """Short enough for a line of chat: `alice` for `str:alice`, the beginning of a key."""
    text = identity.printable
    if text.startswith("str:"):
        return text[4:] or text
    return text if len(text) <= 24 else text[:20] + "…"


def describe_request(request: SessionRequested) -> list[str]:
    """Who asks, from where, and how far that can be believed; one line each."""
    place = f" at {request.address}" if request.address else ""
    return [f"{request.identity.printable}{place}", *describe_proof(request)]


def describe_proof(who: SessionRequested | ConnectionInfo) -> list[str]:
    """How far a name can be believed; one line each."""
    return [f"  {_PROOFS.get(who.proven_by, f'proven by {who.proven_by}')}", f"  key {who.key_fingerprint}"]


def still_asks(net: Messages, request: SessionRequested) -> bool:
    """Whether the request that was shown to the user is the one that accepting would let in."""
    connection = net.get_session_connection_info(request.identity, get_status=False).connection
    return connection is not None and connection.key_fingerprint == request.key_fingerprint


def ask_yes(question: str) -> bool:
    """A question for y or n; without anybody to answer it is a Failure."""
    while True:
        try:
            answer = input(f"{question} [y/n] ").strip().lower()
        except EOFError:
            raise Failure("Nobody is there to answer this question: give --yes to accept without it") from None
        if answer in ("y", "yes", "n", "no"):
            return answer.startswith("y")


def bytes_text(count: float) -> str:
    """`512 B`, `1.5 MB`; powers of 1000."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in _UNITS:
        count /= 1000
        if count < 999.5 or unit == _UNITS[-1]:
            break
    return f"{count:.{0 if count >= 100 else 1}f} {unit}"


def seconds_text(seconds: float) -> str:
    """`7 s` or `1:02:03`."""
    return f"{seconds:.0f} s" if seconds < 59.5 else str(timedelta(seconds=round(seconds))).removeprefix("0:")


def user_folder() -> Path:
    """Where keys and known peers are kept; a Failure if the system has no place for them."""
    folder = config_folder()
    if folder is None:
        raise Failure(f"The system does not tell where settings are kept: set {HOME_VARIABLE} to a folder")
    return folder


def on_terminal() -> bool:
    """Whether somebody watches the output, so that it may move."""
    return out.is_terminal and sys.stdout.isatty()
