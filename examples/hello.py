import peergram

with peergram.Messages("bob", listen="127.0.0.1:0") as bob, peergram.Messages("alice") as alice:
    bob.on_session_request = lambda request: bob.accept_session_with_user(request.identity)
    host, port = bob.local_addresses[0]
    alice.send_message_to_user(f"ip:{host}:{port}", b"hello", peergram.SendFlags.RELIABLE, channel=3)
    while not (messages := bob.receive_messages_on_channel(3, 10)):
        bob.wait(1)
        bob.run_callbacks()
    print(messages[0].identity, messages[0].payload)
