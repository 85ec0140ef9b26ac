"""Rendezvous signals, and the lines that carry them."""

from __future__ import annotations

from fuzz.run import load_vectors, run
from peergram.errors import UsageError, WireError
from peergram.signaling.line_protocol import LineSplitter, decode_line, encode_line
from peergram.wire.signals import decode_signal, encode_signal

SIGNAL, LINES = range(2)


def fuzz_one(data: bytes) -> None:
    """The first byte chooses. A signal is refused with WireError, or reads the same after being written again. A line is refused
    with WireError, or is carried unchanged if its name can stand in one; cutting it anywhere makes no difference."""
    kind, data = data[0] % 2 if data else SIGNAL, data[1:]
    if kind == SIGNAL:
        try:
            signal = decode_signal(data)
        except WireError:
            return
        assert decode_signal(encode_signal(signal)) == signal
        return
    lines = LineSplitter().feed(data)
    splitter = LineSplitter()
    middle = len(data) // 2
    assert splitter.feed(data[:middle]) + splitter.feed(data[middle:]) == lines
    for line in lines:
        try:
            identity, blob = decode_line(line)
            written = encode_line(identity, blob)
        except (WireError, UsageError):
            continue
        assert decode_line(written) == (identity, blob)


def seeds() -> list[bytes]:
    """The recorded signals and hand-made requests, and some of them as lines."""
    vectors = load_vectors("03-signals")
    signals = [bytes.fromhex(row["hex"]) for row in vectors["signals"] + vectors["crafted_connect_requests"]]
    lines = [b"str:alice " + signal.hex().encode() + b"\r\n" for signal in signals[::8]]
    return [bytes((SIGNAL,)) + signal for signal in signals] + [bytes((LINES,)) + line for line in lines]


if __name__ == "__main__":
    run(fuzz_one, seeds())
