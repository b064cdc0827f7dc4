"""Encryption, signatures and hashes as a service: keys that stay inside, for callers who may use them."""
