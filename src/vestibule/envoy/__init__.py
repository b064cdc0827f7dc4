"""The compiler: from what people asked for and what runs, to the resources of every proxy.

Import the modules themselves (``envoy.compile``, ``envoy.bootstrap``, …): this package stays empty, so that a
sidecar can write its bootstrap without loading protobuf.
"""
