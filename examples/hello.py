import peergram

with peergram.Messages("bob") as bob, peergram.Messages("alice") as alice:
    bob.on_session_request = lambda request: bob.accept_session_with_user(request.identity)
    alice.send_message_to_user("bob", b"hello", peergram.SendFlags.RELIABLE, channel=3)
    while not (messages := bob.receive_messages_on_channel(3, 10)):
        bob.wait(1)
        bob.run_callbacks()
    print(messages[0].identity, messages[0].payload)
