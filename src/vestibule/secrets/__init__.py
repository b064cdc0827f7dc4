"""Secrets: what is kept encrypted, who may use it, and the credentials that are made on demand."""
