"""Attestation: from evidence to selectors, for nodes and for workloads; one file per kind."""
