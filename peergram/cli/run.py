"""The group of all commands, and how every error ends: one red sentence and an exit code.

0 done; 1 it failed, and the sentence says why; 2 asked for wrongly; 130 ended by Ctrl-C. A traceback is always a defect of ours.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from io import TextIOWrapper

import click

from peergram import COMPILED
from peergram.cli.terminal import Failure, err, say_error
from peergram.errors import AddressInUseError, PeergramError, UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

_COMMANDS = ("demo", "chat", "send", "receive", "ping", "run", "id", "known", "serve", "ca", "cert", "sim")
"""Each is a function of this name in a module of this name here; a module that is missing is a command that is missing."""
_ELSEWHERE = {"run": "run_program"}
"""Those of another name here."""


class LazyGroup(click.Group):
    """Imports a command when it is called, or listed in the help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if find_spec(f"{__package__}.{_ELSEWHERE.get(name, name)}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = _ELSEWHERE.get(cmd_name, cmd_name)
        command = getattr(import_module(f"{__package__}.{name}"), name)
        assert isinstance(command, click.Command)
        return command


def _version() -> str:
    try:
        version = metadata.version("peergram")
    except metadata.PackageNotFoundError:
        version = "(not installed: run from its source)"
    return f"{version} (compiled)" if COMPILED else version


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(_version(), message="peergram %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Show the library's log, too.")
def peergram(verbose: bool) -> None:
    """Send a message to a person, not to an address.

    `peergram demo` shows what the library does on a bad network; `peergram COMMAND --help` tells more about each command.
    """
    logging.basicConfig(level=logging.DEBUG if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what is returned is the exit code."""
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        # No character of ours, or of what somebody sends or types, may end a command because the terminal lacks it.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = peergram.main(args=arguments, prog_name="peergram", standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "peergram"
        say_error(f"{_as_sentence(error.format_message())} See {path} --help.")
        return EXIT_USAGE
    except UsageError as error:
        say_error(_as_sentence(str(error)))
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        err.print()
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter must not complain about it when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (Failure, AddressInUseError, PeergramError, click.ClickException, OSError) as error:
        say_error(_as_sentence(str(error)))
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def _as_sentence(text: str) -> str:
    """On one line, with a full stop."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else text + "."
