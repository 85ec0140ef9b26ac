"""Our relay as a program, in place of coturn's `turnserver`: says `listening`, and runs until it is ended."""

from __future__ import annotations

import argparse
import signal
import ssl
import threading

from peergram.address import parse_address
from peergram.servers.relay_access import RelayAccess
from peergram.servers.relay_quotas import RelayQuotas
from peergram.servers.relay_run import RelayServer, RelaySettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bind", "tls-bind"):
        parser.add_argument(f"--{name}", action="append", default=[], type=parse_address)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--realm", default="peergram")
    parser.add_argument("--secret", default="")
    parser.add_argument("--identity-rate", type=int, default=0)
    parser.add_argument("--total-rate", type=int, default=0)
    parser.add_argument("--per-host", type=int, default=100_000)
    parser.add_argument("--allow-loopback-peers", action="store_true")
    options = parser.parse_args()
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)
    access = RelayAccess(
        realm=options.realm.encode(),
        user=options.user.encode() or None,
        password=options.password.encode() or None,
        secret=options.secret.encode() or None,
    )
    relay = RelayServer(
        RelaySettings(
            binds=tuple(options.bind),
            tls_binds=tuple(options.tls_bind),
            tls=tls,
            access=access,
            allow_loopback=options.allow_loopback_peers,
            quotas=RelayQuotas(
                allocations_per_identity_max=options.per_host,
                allocations_per_host_max=options.per_host,
                identity_bytes_per_s=options.identity_rate,
                network_bytes_per_s=0,
                total_bytes_per_s=options.total_rate,
            ),
        )
    )
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    relay.start()
    print("listening", flush=True)
    ended.wait()
    print("\n".join(relay.metrics()), flush=True)
    relay.close()


if __name__ == "__main__":
    main()
