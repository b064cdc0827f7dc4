"""Wire types: protobuf messages and services of Vestibule, SPIRE and the SPIFFE Workload API.

The modules below ``wire.gen`` are generated from ``proto/`` by ``make proto``.  They live in a descriptor pool
of their own, so that a program may import them beside the ``spiffe`` package or other generated copies.
"""
