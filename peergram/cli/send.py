"""`peergram send`: one file to one peer, in reliable messages, confirmed by the receiver with its SHA-256."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

import click

from peergram.cli.call import Call, place_of
from peergram.cli.network_options import ANSWER_TIMEOUT_S, NetworkOptions, network_options, peer_identity
from peergram.cli.progress import TransferProgress
from peergram.cli.terminal import Failure, bytes_text, printable, say
from peergram.cli.transfer import (
    CHANNEL,
    CHUNK_BYTES,
    DATA,
    FileHeader,
    TransferError,
    TransferResult,
    decode_result,
    encode_end,
    encode_file,
    sendable_name,
)
from peergram.config import Config
from peergram.errors import UsageError

SEND_BUFFER_BYTES = 4 << 20
_CONFIRM_TIMEOUT_S = 60.0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "to", metavar="NAME", required=True, help="Who runs `peergram receive`: a name, or ip:ADDRESS:PORT.")
@click.option("--as", "who", metavar="NAME", help="Who you are, such as alice [default: a new key, which proves itself].")
@network_options
@click.option(
    "--timeout", metavar="SECONDS", type=click.FloatRange(0.1, 3600), default=ANSWER_TIMEOUT_S, show_default=True,
    help="How long the other side may take to accept.",
)  # fmt: skip
def send(file: Path, to: str, who: str | None, network: NetworkOptions, timeout: float) -> None:
    """Send FILE to somebody who runs `peergram receive`.

    The transfer is encrypted, survives packet loss, and counts as done only when the receiver has confirmed the same SHA-256.

    \b
    Examples:
      peergram send photo.jpg --to bob
      peergram send photo.jpg --to bob --as alice --signaling wss://signal.example.org/
      peergram send photo.jpg --to ip:192.0.2.7:27015
    """
    peer = peer_identity(to)
    config = Config(send_buffer_bytes=SEND_BUFFER_BYTES, timeout_initial_us=int(timeout * 1e6))
    with _open(file) as source, network.open(who, peer, config=config) as net:
        header = FileHeader(sendable_name(file), os.fstat(source.fileno()).st_size)
        call = Call(net, peer, CHANNEL)
        say(f"Calling {place_of(peer)} to send {header.name} ({bytes_text(header.size_bytes)}).")
        say(f"  our key {net.key_fingerprint}")
        call.send(encode_file(header))
        call.wait_connected(timeout)
        say(f"{call.name} has accepted.")
        call.tell_path()
        try:
            _transfer(call, source, header)
        except TransferError as error:
            raise Failure(f"{call.name} did not take the file: {error}") from None


def _open(path: Path) -> BinaryIO:
    if path.is_dir():
        raise UsageError(f"{printable(str(path))!r} is a folder: pack it into one file first, for example with tar")
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise UsageError(f"{printable(str(path))!r} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UsageError(f"{printable(str(path))!r} is no regular file: copy what it yields into one first")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a named pipe would wait for its writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _transfer(call: Call, source: BinaryIO, header: FileHeader) -> None:
    digest, sent_bytes = hashlib.sha256(), 0
    with TransferProgress(header.name, header.size_bytes) as progress:

        def meanwhile() -> None:
            progress.show(max(0, sent_bytes - call.unconfirmed_bytes))
            _raise_if_refused(call)

        while chunk := source.read(min(CHUNK_BYTES, header.size_bytes - sent_bytes)):
            digest.update(chunk)
            call.send(DATA + chunk, meanwhile)
            sent_bytes += len(chunk)
        if sent_bytes != header.size_bytes:
            raise Failure(f"{header.name} became shorter while it was being sent: send it again")
        call.send(encode_end(digest.hexdigest()), meanwhile)
        result = _wait_for_result(call, progress, sent_bytes)
        progress.show(sent_bytes)
        summary = progress.summary
    if result.sha256 != digest.hexdigest():
        raise Failure(f"{call.name} has saved something else than was sent: its SHA-256 is {result.sha256}; send it again")
    say(f"{call.name} has saved {result.saved_as}: {summary}.", "green")
    say(f"SHA-256 {digest.hexdigest()}, the same on both sides")


def _raise_if_refused(call: Call) -> None:
    """Before the end, the only answer there is is a refusal."""
    for message in call.net.receive_messages_on_channel(CHANNEL, 1):
        result = decode_result(message.payload)
        raise TransferError(result.error or "it answered before the end")


def _wait_for_result(call: Call, progress: TransferProgress, sent_bytes: int) -> TransferResult:
    """The receiver's answer; how long it may take counts from when all data has arrived."""
    silent_s = 0.0
    while silent_s < _CONFIRM_TIMEOUT_S:
        answer = call.receive(0.1)
        if answer is not None:
            result = decode_result(answer.payload)
            if result.error:
                raise TransferError(result.error)
            return result
        unconfirmed_bytes = call.unconfirmed_bytes
        progress.show(max(0, sent_bytes - unconfirmed_bytes))
        silent_s = 0.0 if unconfirmed_bytes else silent_s + 0.1
    raise Failure(f"{call.name} got everything but did not confirm it: look there whether it was saved")
