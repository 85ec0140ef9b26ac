"""Ways for a datagram to reach a peer: candidates, checks, and which path is in use now. No I/O, no clock."""
