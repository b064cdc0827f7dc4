"""Seals: what keeps the root key while it is not in memory."""
