"""`peergram receive`: wait for files and save them, never over an existing one, checked by SHA-256."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

import click

from peergram.address import format_address
from peergram.cli.call import Call, wait_for_news
from peergram.cli.network_options import NetworkOptions, listen_address, network_options
from peergram.cli.progress import TransferProgress
from peergram.cli.terminal import (
    Failure,
    ask_yes,
    bytes_text,
    describe_request,
    name_of,
    say,
    say_error,
    still_asks,
)
from peergram.cli.transfer import (
    CHANNEL,
    DATA,
    FileHeader,
    TransferError,
    TransferResult,
    decode_end,
    decode_file,
    encode_result,
    new_file,
)
from peergram.config import Config
from peergram.errors import UsageError
from peergram.events import SessionRequested
from peergram.identity import Identity
from peergram.messages import Messages

_CONFIG = Config(timeout_initial_us=300_000_000, recv_buffer_bytes=4 << 20)
"""A stranger may wait five minutes for the answer of a person."""
_SILENCE_MAX_S = 60.0
_FAREWELL_S = 5.0


@click.command()
@click.option("--as", "who", metavar="NAME", help="Who you are, such as bob [default: a new key, which proves itself].")
@click.option("--listen", "listen", metavar="PORT", help="UDP port, or ADDRESS:PORT, to wait at for those who call an address.")
@network_options
@click.option(
    "--out", "folder", metavar="DIR", type=click.Path(path_type=Path), default=Path(), help="Where to save [default: here]."
)
@click.option("--once", is_flag=True, help="End after one file; the exit code says whether it was saved.")
@click.option("--yes", is_flag=True, help="Accept everybody without a question.")
def receive(who: str | None, listen: str | None, network: NetworkOptions, folder: Path, once: bool, yes: bool) -> int:
    """Wait for files and save them.

    Runs until Ctrl-C; others send with `peergram send`. Asks before it accepts anybody. An existing file is never overwritten:
    the new one gets a number.

    \b
    Examples:
      peergram receive --as bob --out Downloads
      peergram receive --as bob --signaling wss://signal.example.org/
      peergram receive --listen 27015
    """
    if not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is no folder: create it first, or name another with --out")
    asking: dict[Identity, SessionRequested] = {}
    address = None if listen is None else listen_address(listen)
    with network.open(who, None, listen=address, config=_CONFIG) as net:
        net.on_session_request = lambda request: asking.update({request.identity: request})
        place = "" if address is None else f" at {format_address(net.local_addresses[0])}"
        say(f"Waiting for files as {net.identity.printable}{place} (Ctrl-C ends).")
        say(f"  our key {net.key_fingerprint}")
        say(f"  {net.signaling_status}")
        while True:
            request = _next_request(net, asking)
            if not _let_in(net, request, yes=yes):
                continue
            saved = _receive_one(net, request, folder)
            if once:
                return 0 if saved else 1


def _next_request(net: Messages, asking: dict[Identity, SessionRequested]) -> SessionRequested:
    while not asking:
        wait_for_news(net, 3600)
        net.run_callbacks()
        # Leftovers of sessions that are over would otherwise end every wait at once.
        while net.receive_messages_on_channel(CHANNEL, 64):
            pass
        if not asking:
            time.sleep(0.01)
    return asking.pop(next(iter(asking)))


def _let_in(net: Messages, request: SessionRequested, *, yes: bool) -> bool:
    first, *more = describe_request(request)
    say(f"{first} wants to send a file")
    for line in more:
        say(line)
    if not (yes or ask_yes("Accept?")):
        net.close_session_with_user(request.identity)
        say("Refused.")
        return False
    if not (still_asks(net, request) and net.accept_session_with_user(request.identity)):
        say_error(f"{name_of(request.identity)} has given up in the meantime.")
        return False
    return True


def _receive_one(net: Messages, request: SessionRequested, folder: Path) -> bool:
    call = Call(net, request.identity, CHANNEL)
    try:
        result = _save(call, folder)
    except TransferError as error:
        result = TransferResult(error=str(error))
    except OSError as error:
        result = TransferResult(error=f"the receiver cannot write the file ({error.strerror or error})")
    except Failure as failure:
        say_error(f"Nothing saved: {failure}.")
        return False
    if result.error:
        say_error(f"Nothing saved: {result.error}.")
    _answer(call, result)
    return not result.error


def _answer(call: Call, result: TransferResult) -> None:
    """Tell the sender, who may hang up as soon as he knows."""
    try:
        call.send(encode_result(result))
        call.wait_delivered(_FAREWELL_S)
    except Failure:
        return
    call.net.close_session_with_user(call.peer)


def _save(call: Call, folder: Path) -> TransferResult:
    header = decode_file(_next_payload(call))
    say(f"Receiving {header.name} ({bytes_text(header.size_bytes)}) from {call.name}.")
    if shutil.disk_usage(folder).free < header.size_bytes:
        raise TransferError("the receiver has not enough free space for the file")
    with new_file(folder, header.name) as (path, file), TransferProgress(header.name, header.size_bytes) as progress:
        digest, received_bytes = hashlib.sha256(), 0
        while (payload := _next_payload(call))[:1] == DATA:
            received_bytes += len(payload) - 1
            if received_bytes > header.size_bytes:
                raise TransferError("more data came than was announced")
            chunk = memoryview(payload)[1:]
            digest.update(chunk)
            file.write(chunk)
            progress.show(received_bytes)
        sha256 = digest.hexdigest()
        _check_end(payload, header, received_bytes, sha256)
        summary = progress.summary
    say(f"Saved {path}: {summary}.", "green")
    say(f"SHA-256 {sha256}, the same on both sides")
    return TransferResult(saved_as=path.name, sha256=sha256)


def _check_end(payload: bytes, header: FileHeader, received_bytes: int, sha256: str) -> None:
    announced = decode_end(payload)
    if received_bytes != header.size_bytes:
        raise TransferError(f"only {received_bytes} of {header.size_bytes} bytes came")
    if announced != sha256:
        raise TransferError("the SHA-256 of what came is not the one of what was sent")


def _next_payload(call: Call) -> bytes:
    message = call.receive(_SILENCE_MAX_S)
    if message is None:
        raise TransferError(f"nothing came for {_SILENCE_MAX_S:.0f} s")
    return message.payload
