"""QR codes drawn with the half blocks of a terminal, two rows of the code in one line of text."""

from __future__ import annotations

import sys

from rich.style import Style
from rich.text import Text

from peergram.cli.terminal import on_terminal, out

_QUIET = 2
"""White modules around the code. The standard has four, and cameras do with fewer; so it fits 80 by 24 characters."""
_DARK_ON_LIGHT = Style(color="#000000", bgcolor="#ffffff")
_HALVES = {(0, 0): " ", (0, 1): "▄", (1, 0): "▀", (1, 1): "█"}


def qr_lines(content: str) -> list[str] | None:
    """Lines of equal length, where a block is dark and a space is light; None if the package that makes them is missing."""
    try:
        import segno
    except ImportError:
        return None
    modules = segno.make_qr(content, error="l").matrix_iter(border=_QUIET)
    rows = [[1 if module else 0 for module in row] for row in modules]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    return [
        "".join(_HALVES[above, below] for above, below in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    ]


def show_qr(content: str) -> str:
    """Draw the code if somebody watches; what to tell him if that is not possible, or nothing."""
    if not on_terminal():
        return ""
    lines = qr_lines(content)
    if lines is None:
        return f"A QR code needs segno: {sys.executable} -m pip install segno"
    if out.width < len(lines[0]):
        return f"The QR code needs a window of {len(lines[0])} columns."
    try:
        "".join(_HALVES.values()).encode(sys.stdout.encoding)
    except (LookupError, UnicodeEncodeError):
        return "This terminal lacks the characters for a QR code."
    for line in lines:
        # Without colours, light letters on a dark ground are what most people have.
        text = Text(_inverted(line)) if out.no_color or out.color_system is None else Text(line, _DARK_ON_LIGHT)
        out.print(text, soft_wrap=True)
    return ""


def _inverted(line: str) -> str:
    return line.translate(str.maketrans(" ▄▀█", "█▀▄ "))
