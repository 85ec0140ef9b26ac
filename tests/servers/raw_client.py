"""A client on a bare socket: it says and reads only what a test wants, and keeps nothing running."""

from __future__ import annotations

import os
import socket
import struct
import time

from peergram.address import Address
from peergram.identity import Identity
from peergram.signaling.websocket_protocol import (
    CarriedSignal,
    Hello,
    Login,
    Refusal,
    Refused,
    ServerMessage,
    Welcome,
    decode_server_message,
    encode_client_message,
    login_text,
)
from tests.drivers.signaling.parties import party

from .running import RunningServer, tcp

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(frame: bytes, opcode: int = 2) -> bytes:
    """As a client sends it; the mask is nothing."""
    length = len(frame)
    head = struct.pack("!BB", 0x80 | opcode, 0x80 | length) if length < 126 else struct.pack("!BBH", 0x80 | opcode, 0xFE, length)
    return head + bytes(4) + frame


class RawClient:
    """Logged in once made."""

    def __init__(self, server: RunningServer | Address, name: str, *, retry_busy: bool = False) -> None:
        self.address = server.address if isinstance(server, RunningServer) else server
        while not self._log_in(name):
            assert retry_busy, "the server is busy"
            time.sleep(0.05)

    def _log_in(self, name: str) -> bool:
        self._buffer = b""
        self.socket = tcp(self.address)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self.socket.sendall(UPGRADE)
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        self._buffer = self._buffer.partition(b"\r\n\r\n")[2]
        hello = self.read()
        assert isinstance(hello, Hello)
        url = f"ws://{self.address[0]}:{self.address[1]}/"
        who, nonce = party(name), os.urandom(32)
        text = login_text(server_nonce=hello.nonce, client_nonce=nonce, url=url, identity=who.identity, public_key=who.public_key)
        self.write(encode_client_message(Login(who.identity, who.public_key, nonce, url, who.sign(text))))
        answer = self.read()
        if isinstance(answer, Refused) and answer.code == Refusal.BUSY:
            self.socket.close()
            return False
        assert isinstance(answer, Welcome), answer
        return True

    def send(self, to: str, blob: bytes) -> None:
        self.write(encode_client_message(CarriedSignal(Identity.of(to), blob)))

    def write(self, frame: bytes, opcode: int = 2) -> None:
        """One frame."""
        self.socket.sendall(masked(frame, opcode))

    def read(self) -> ServerMessage:
        """The next message of the server."""
        while True:
            opcode, content = self.read_frame()
            if opcode == 2:
                return decode_server_message(content)

    def read_signal(self) -> CarriedSignal:
        """The next message, which is a signal."""
        message = self.read()
        assert isinstance(message, CarriedSignal), message
        return message

    def read_frame(self) -> tuple[int, bytes]:
        self._need(2)
        length, at = self._buffer[1] & 0x7F, 2
        if length == 126:
            self._need(4)
            length, at = int.from_bytes(self._buffer[2:4], "big"), 4
        self._need(at + length)
        opcode, content = self._buffer[0] & 15, self._buffer[at : at + length]
        self._buffer = self._buffer[at + length :]
        return opcode, content

    def close(self) -> None:
        self.socket.close()

    def _need(self, count: int) -> None:
        while len(self._buffer) < count:
            self._fill()

    def _fill(self) -> None:
        data = self.socket.recv(65_536)
        assert data, "the server hung up"
        self._buffer += data
