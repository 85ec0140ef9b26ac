"""Rendezvous over a slow, lossy side channel: what a service must do, and how peers repeat and decide across it."""
