"""The identity service: authorities, registration, nodes, issuance.  Knows no wire formats."""
