"""A chat of two players, ported from GodotSteam: the names are GodotSteam's, and there is no Steam. See docs/godot_steam.md."""

import time

from peergram.adapters.godot_steam import Steam

CHANNEL = 3


class Player:
    def __init__(self, name: str) -> None:
        # A key for this run; without `key=False` the name keeps the one in the user's folder.
        self.steam = Steam(identity=f"str:{name}", key=False)
        self.steam.network_messages_session_request.connect(self._on_session_request)
        self.steam.network_messages_session_failed.connect(self._on_session_failed)
        self.heard = 0

    def say(self, reference: str, text: str) -> None:
        result = self.steam.sendMessageToUser(reference, text.encode(), Steam.NETWORKING_SEND_RELIABLE, CHANNEL)
        if result != 1:
            print("not sent:", result)

    def frame(self) -> None:
        self.steam.run_callbacks()
        for message in self.steam.receiveMessagesOnChannel(CHANNEL, 16):
            self.heard += 1
            print(message["identity"], "says", message["payload"].decode())

    def _on_session_request(self, identity: str) -> None:
        print(identity, "wants to talk")
        self.steam.addIdentity("friend")
        self.steam.parseIdentityString("friend", identity)
        self.steam.acceptSessionWithUser("friend")

    def _on_session_failed(self, reason: int, identity: str, connection_state: int, debug_message: str) -> None:
        print(identity, "is gone:", reason, debug_message)


def main() -> None:
    alice, bob = Player("alice"), Player("bob")
    alice.say("str:bob", "hello")
    while not bob.heard:
        alice.frame()
        bob.frame()
        time.sleep(1 / 60)
    bob.say("friend", "hello yourself")
    while not alice.heard:
        alice.frame()
        bob.frame()
        time.sleep(1 / 60)
    info = alice.steam.getSessionConnectionInfo("str:bob", True, True)
    print("connected:", info["state"] == Steam.CONNECTION_STATE_CONNECTED)
    for player in (alice, bob):
        player.steam.close()


if __name__ == "__main__":
    main()
