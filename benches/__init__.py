"""Throughput side by side: every contestant is a sender and a receiver, two processes that talk UDP over the loopback interface.

`python -m benches` runs them interleaved in one go, so that they meet the same machine in the same mood. A contestant is a module
named in `contestants.py`; what a module has to offer is said there.
"""
