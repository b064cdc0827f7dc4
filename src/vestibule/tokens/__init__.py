"""Tokens: a workload's identity in, a tightly scoped JWT out (RFC 6749, 8693, 9068)."""
