"""aioquic over the asyncio look-alike: its protocols, its own transport's rules, its encryption inside ours."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from peergram import Messages
from peergram.adapters.asyncio_shim import create_datagram_endpoint

from .networks import Town
from .test_real_programs import serving

# Without types: what is not installed everywhere must not decide what the type checker says.
PROTOCOL = import_module("aioquic.asyncio.protocol")
SERVER = import_module("aioquic.asyncio.server")
CONFIGURATION = import_module("aioquic.quic.configuration")
CONNECTION = import_module("aioquic.quic.connection")
SOAK = bool(os.environ.get("PEERGRAM_SOAK"))


def certificate_files(folder: Path) -> tuple[Path, Path]:
    """Of a server that calls itself bob."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bob")])
    start = datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bob")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, key_file = folder / "certificate.pem", folder / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, key_file


async def carry(at_server: Messages, at_client: Messages, content: bytes, folder: Path) -> bytes:
    """What a server that keeps one stream has got."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(await reader.read())
        writer.close()

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(keep(reader, writer)))

    tasks: list[asyncio.Future[None]] = []
    chain, key = certificate_files(folder)
    serving = CONFIGURATION.QuicConfiguration(is_client=False, alpn_protocols=["test"])
    serving.load_cert_chain(chain, key)
    asking = CONFIGURATION.QuicConfiguration(is_client=True, alpn_protocols=["test"], server_name="bob")
    asking.load_verify_locations(str(chain))
    _, server = await create_datagram_endpoint(
        at_server, lambda: SERVER.QuicServer(configuration=serving, stream_handler=on_stream), local_addr=("0.0.0.0", 4433)
    )
    transport, client = await create_datagram_endpoint(
        at_client, lambda: PROTOCOL.QuicConnectionProtocol(CONNECTION.QuicConnection(configuration=asking)), remote_addr="bob"
    )
    client.connect(transport.get_extra_info("peername"))
    await client.wait_connected()
    _, writer = await client.create_stream()
    writer.write(content)
    writer.write_eof()
    received = await got
    client.close()
    await client.wait_closed()
    transport.close()
    server.close()

    return received


@pytest.mark.parametrize(
    "size", [500_000, pytest.param(10_000_000, marks=pytest.mark.skipif(not SOAK, reason="full figures only"))]
)
def test_a_stream_of_quic_arrives_whole(town: Town, tmp_path: Path, size: int) -> None:
    content = Random(1).randbytes(size)
    got = asyncio.run(asyncio.wait_for(carry(town.messages("bob"), town.messages("alice"), content, tmp_path), 120))
    assert got == content


@pytest.mark.parametrize(
    "size", [50_000, pytest.param(10_000_000, marks=pytest.mark.skipif(not SOAK, reason="full figures only"))]
)
def test_its_own_functions_make_sockets_that_reach_peers(tmp_path: Path, size: int) -> None:
    chain, key = certificate_files(tmp_path)
    with serving("quic_server.py", str(chain), str(key)) as server:
        assert server.client("quic_client.py", str(chain), str(size)) == f"{size} bytes came back as they were\n"
