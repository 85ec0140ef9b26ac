"""dnspython: one query by hand, and others through its resolver, which makes a socket for each."""

from __future__ import annotations

import sys

import dns.message
import dns.query
import dns.resolver

host, port = sys.argv[1], int(sys.argv[2])
response = dns.query.udp(dns.message.make_query("by.hand.example.", "A"), host, port=port, timeout=10)
print(response.answer[0])
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port = [host], port
for number in range(int(sys.argv[3])):
    print(*resolver.resolve(f"host{number}.example.", "A"))
