"""A GodotSteam script, ported: the names are GodotSteam's, and there is no Steam."""

import time

from peergram.adapters.godot_steam import Steam

CHANNEL = 3


def main() -> None:
    with Steam(identity="str:bob", key=False) as bob, Steam(identity="str:alice", key=False) as alice:

        def let_in(identity: str) -> None:
            print(identity, "wants to talk")
            bob.acceptSessionWithUser(identity)

        bob.network_messages_session_request.connect(let_in)
        alice.sendMessageToUser("str:bob", b"hello", Steam.NETWORKING_SEND_RELIABLE, CHANNEL)
        while not (messages := bob.receiveMessagesOnChannel(CHANNEL, 10)):
            bob.run_callbacks()
            alice.run_callbacks()
            time.sleep(1 / 60)
        print(messages[0]["identity"], "says", messages[0]["payload"].decode())


if __name__ == "__main__":
    main()
