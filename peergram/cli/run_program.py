"""`peergram run`: an unmodified Python program for UDP, over peers."""

from __future__ import annotations

import logging
import sys

import click

from peergram.adapters.address_book import AddressBook, read_mapping
from peergram.adapters.datagram_network import DatagramNetwork
from peergram.adapters.run_program import run_program as run_it
from peergram.cli.network_options import NetworkOptions, network_options
from peergram.cli.terminal import err
from peergram.config import Config
from peergram.errors import UsageError


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--as", "who", metavar="NAME", help="Who you are, such as alice [default: a new key, which proves itself].")
@click.option(
    "--map",
    "mappings",
    multiple=True,
    metavar="HOST[:PORT]=NAME",
    help="Which address stands for whom: one port of a host, or without a port all of them. Repeatable.",
)
@click.option("--accept", is_flag=True, help="Let everybody in, not only who is mapped.")
@network_options
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
def run_program(
    who: str | None, mappings: tuple[str, ...], accept: bool, network: NetworkOptions, program: tuple[str, ...]
) -> int:
    """Run a Python program for UDP with peers at its addresses.

    What it sends to a mapped address goes to that peer, encrypted and through NATs; everything else goes as ever. Peers that are
    not mapped appear at addresses of 169.254/16. Both sides are run so.

    \b
    Examples:
      peergram run --as bob --accept -- python server.py
      peergram run --as alice --map 10.0.0.2:5683=bob -- python client.py 10.0.0.2 5683
    """
    book = AddressBook(dict(_distinct(mappings)))
    root = logging.getLogger()
    if root.level > logging.DEBUG:
        # A program that sets up its own log must find none here; with -v ours goes first.
        root.handlers.clear()
        root.setLevel(logging.WARNING)
    net = network.open(who, None, config=Config())
    with DatagramNetwork(net, book, accept="everyone" if accept else "mapped", ports=True) as datagrams:
        err.print(f"peergram: running as {net.identity.printable}", markup=False, highlight=False)
        try:
            run_it(datagrams, program)
        except SystemExit as end:
            return _exit_code(end)
        except (KeyboardInterrupt, UsageError):
            raise
        except BaseException as error:  # noqa: BLE001
            # As Python would end it: what the program raises is none of our errors.
            sys.excepthook(type(error), error, error.__traceback__)
            return 1
    return 0


def _distinct(mappings: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [read_mapping(text) for text in mappings]
    places = [place for place, _ in pairs]
    if twice := [place for place in places if places.count(place) > 1]:
        raise UsageError(f"--map: {twice[0]} stands for one peer only")
    return [(place, identity.text) for place, identity in pairs]


def _exit_code(end: SystemExit) -> int:
    """As Python takes it: a number, nothing, or a sentence."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1
