"""Vestibule: authenticated, encrypted, authorized and observable calls between services."""

__version__ = "0.1.0"
