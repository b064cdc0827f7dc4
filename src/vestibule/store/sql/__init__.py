"""The storage ports in SQL."""
