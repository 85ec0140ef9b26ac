"""A small name server of dnspython's messages: every name has one address; what is long is cut."""

from __future__ import annotations

import socket
import sys

import dns.flags
import dns.message
import dns.rrset

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    print("serving", flush=True)
    for _ in range(int(sys.argv[2])):
        wire, address = sock.recvfrom(65535)
        query = dns.message.from_wire(wire)
        response = dns.message.make_response(query)
        question = query.question[0]
        response.flags |= dns.flags.AA
        response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", "192.0.2.7"))
        sock.sendto(response.to_wire(), address)
