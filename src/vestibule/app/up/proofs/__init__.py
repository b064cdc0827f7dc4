"""The proofs, one file each; their order and set stand in ``proofs.all``."""
