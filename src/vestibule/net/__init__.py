"""Sockets: who is calling, over which channel, and gRPC on both ends of it."""
