"""TCP and TLS servers on the loopback interface, each connection in a thread of its own, and certificates of our own making."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from peergram.address import Address

Serve = Callable[[socket.socket], None]


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65_536):
        connection.sendall(data)


class StreamServer:
    """Serves each connection with `serve`; closes it afterwards."""

    def __init__(self, serve: Serve, context: ssl.SSLContext | None = None) -> None:
        self.accepted = 0
        self._serve = serve
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> Address:
        host, port = self._listener.getsockname()
        return host, port

    def close(self) -> None:
        for each in (self._listener, *self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self.accepted += 1
                threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._context is None:
                self._serve(connection)
                return
            with self._context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as secured:
                self._serve(secured)
                secured.unwrap()


class Certificate(NamedTuple):
    """One that signs itself."""

    path: Path
    """Certificate and key, PEM."""
    fingerprint: str
    context: ssl.SSLContext
    """For a server that shows it."""


def make_certificate(folder: Path, host_name: str = "relay.example") -> Certificate:
    """For `host_name` and 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_name)])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host_name), x509.IPAddress(IPv4Address("127.0.0.1"))]
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(subject_key, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{host_name}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return Certificate(path, certificate.fingerprint(hashes.SHA256()).hex(), context)
