"""How a node proves which node it is: one file per kind, the agent's half and the server's half apart."""

from vestibule.attest.node.ports import AttestedNode, Challenge, NodeAttestor, NodeProof

__all__ = ["AttestedNode", "Challenge", "NodeAttestor", "NodeProof"]
