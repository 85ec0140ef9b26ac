"""Two players of a game with a frame loop: positions go unreliably sixty times a second, shots reliably; nothing ever waits."""

from __future__ import annotations

import math
import struct
import time

import peergram
from peergram import SendFlags

POSITIONS, SHOTS = 0, 1
FRAMES, FRAME_S = 60, 1 / 60
POSITION = struct.Struct("<ff")


class Player:
    def __init__(self, name: str, opponent: str | peergram.Identity | None = None) -> None:
        self.opponent = opponent
        self.net = peergram.Messages(name, listen="127.0.0.1:0")
        self.net.on_session_request = lambda request: self.net.accept_session_with_user(request.identity)
        self.other_at = (0.0, 0.0)
        self.shots = 0

    def frame(self, angle: float, shoots: bool) -> None:
        self.net.run_callbacks()
        for message in self.net.receive_messages_on_channel(POSITIONS, 100):
            self.other_at = POSITION.unpack(message.payload)
            self.opponent = message.identity
        self.shots += len(self.net.receive_messages_on_channel(SHOTS, 100))
        if self.opponent is None:
            return
        # A position that would wait is worth nothing later: NO_DELAY drops it instead.
        position = POSITION.pack(math.cos(angle), math.sin(angle))
        self.net.send_message_to_user(self.opponent, position, SendFlags.UNRELIABLE_NO_DELAY, POSITIONS)
        if shoots:
            self.net.send_message_to_user(self.opponent, b"bang", SendFlags.RELIABLE, SHOTS)


def main() -> None:
    ben = Player("ben")
    anna = Player("anna", opponent="ip:{}:{}".format(*ben.net.local_addresses[0]))
    for number in range(FRAMES):
        anna.frame(number / 20, shoots=number % 20 == 10)
        ben.frame(-number / 20, shoots=False)
        time.sleep(FRAME_S)
    ben.frame(0, shoots=False)
    print(f"ben saw {ben.shots} shots, anna near ({ben.other_at[0]:.1f}, {ben.other_at[1]:.1f})")
    for player in (anna, ben):
        player.net.close()


if __name__ == "__main__":
    main()
