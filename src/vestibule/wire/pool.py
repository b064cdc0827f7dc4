"""The private descriptor pool of our generated types."""

from __future__ import annotations

from google.protobuf import descriptor_pool, empty_pb2, struct_pb2, wrappers_pb2

POOL = descriptor_pool.DescriptorPool()
"""Holds every type generated from ``proto/``, and copies of the well-known types they use."""

for _module in (empty_pb2, struct_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
