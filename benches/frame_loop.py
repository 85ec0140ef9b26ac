"""What the network costs a frame loop: `python -m benches.frame_loop [--seconds S] [--peers N] [--busy SHARE]`.

One program with a frame of 16.7 ms talks to four peers in processes of their own, sixty small messages a second each way with
each. It measures, for every frame, the time that the network's calls take (`run_callbacks` and receiving, and apart from that,
sending), and, with a main loop that computes for a large share of each frame, how many frames are missed because the background
thread wants the interpreter too, compared with the same loop before there was a network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

from peergram import Identity, Messages, SendFlags

FRAME_S = 1 / 60
_CHANNEL = 0
_PAYLOAD = bytes(48)
_WARM_FRAMES = 60


def main(arguments: list[str] | None = None) -> int:
    """Run it and print the figures."""
    options = _parser().parse_args(arguments)
    if options.side:
        _play(options.side, options.seconds + 10)
        return 0
    frames = int(options.seconds / FRAME_S)
    shares = (0.0, options.busy)
    alone = {share: _run(frames, share, lambda: None) for share in shares}
    with Messages("frame-loop", key=False, listen="127.0.0.1:0", signaling=None, trust="open") as net:
        net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
        host, port = net.local_addresses[0]
        command = [
            sys.executable,
            "-m",
            "benches.frame_loop",
            "--side",
            f"ip:{host}:{port}",
            "--seconds",
            str(options.seconds * 4),
        ]
        peers = [subprocess.Popen(command) for _ in range(options.peers)]
        try:
            game = _Game(net, options.peers)
            for share in shares:
                game.clear()
                with_net = _run(frames, share, game.frame)
                print(f"main loop busy for {share:.0%} of a frame")
                print(f"  callbacks and receiving: {_figures(game.takes_s)}")
                print(f"  sending to {options.peers} peers: {_figures(game.sends_s)}")
                print(f"  received: {game.received / len(game.takes_s):.2f} messages a frame")
                missed, missed_before = _missed(with_net, share), _missed(alone[share], share)
                print(f"  missed frames: {missed} of {frames} with the network, {missed_before} before there was one")
                print(f"  a frame beyond the game's own work: {_figures(with_net)}; before: {_figures(alone[share])}")
        finally:
            for peer in peers:
                peer.terminate()
                peer.wait()
    return 0


class _Game:
    """The network's part of a frame, and how long it takes."""

    def __init__(self, net: Messages, peers: int) -> None:
        self.net = net
        self.takes_s: list[float] = []
        self.sends_s: list[float] = []
        self.received = 0
        self._peers: dict[Identity, None] = {}
        while len(self._peers) < peers:
            net.wait(10)
            self.frame()

    def clear(self) -> None:
        """Begin to measure."""
        self.takes_s.clear()
        self.sends_s.clear()
        self.received = 0

    def frame(self) -> None:
        """Take what has come, send what a game sends."""
        net = self.net
        begin_s = time.perf_counter()
        net.run_callbacks()
        messages = net.receive_messages_on_channel(_CHANNEL, 1_000)
        taken_s = time.perf_counter()
        for message in messages:
            self._peers[message.identity] = None
        for peer in self._peers:
            net.send_message_to_user(peer, _PAYLOAD, SendFlags.UNRELIABLE_NO_NAGLE, _CHANNEL)
        self.sends_s.append(time.perf_counter() - taken_s)
        self.takes_s.append(taken_s - begin_s)
        self.received += len(messages)


def _run(frames: int, share: float, network: Callable[[], None]) -> list[float]:
    """How long each frame took from its time on, beyond the work of the game itself."""
    lateness: list[float] = []
    at_s = time.perf_counter()
    for frame in range(frames + _WARM_FRAMES):
        # After a missed frame the loop goes on from where it is, so that one is counted once.
        at_s = max(at_s + FRAME_S, time.perf_counter())
        time.sleep(max(0.0, at_s - time.perf_counter()))
        network()
        # The work of a game: so much of Python, however long it takes with others on the interpreter.
        _compute(share * FRAME_S)
        if frame >= _WARM_FRAMES:
            lateness.append(time.perf_counter() - at_s - share * FRAME_S)
    return lateness


def _compute(seconds: float) -> None:
    """Python that takes so long if nobody interrupts it, by its own thread's clock."""
    until_s = time.thread_time() + seconds
    value = 1
    while time.thread_time() < until_s:
        for _ in range(200):
            value = value * 31 % 1_000_003


def _play(server: str, seconds: float) -> None:
    """A peer: sixty messages a second, and takes what comes."""
    with Messages(None, key=False, signaling=None, trust="open") as net:
        until_s = time.perf_counter() + seconds
        at_s = time.perf_counter()
        while time.perf_counter() < until_s:
            net.run_callbacks()
            net.receive_messages_on_channel(_CHANNEL, 1_000)
            net.send_message_to_user(server, _PAYLOAD, SendFlags.UNRELIABLE_NO_NAGLE, _CHANNEL)
            at_s += FRAME_S
            time.sleep(max(0.0, at_s - time.perf_counter()))


def _missed(lateness: list[float], share: float) -> int:
    """How many frames were not done when the next one should have begun."""
    return sum(each > FRAME_S * (1 - share) for each in lateness)


def _figures(values: list[float]) -> str:
    ordered = sorted(values)
    marks = [ordered[int(share * (len(ordered) - 1))] * 1_000 for share in (0.5, 0.99, 1.0)]
    return "median {:.3f} ms, p99 {:.3f} ms, worst {:.3f} ms".format(*marks)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.frame_loop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15, help="how long each of the four runs takes")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--busy", type=float, default=0.7, help="share of a frame that the main loop computes")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
