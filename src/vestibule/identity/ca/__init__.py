"""The certificate authority above the servers: an offline root, and the ceremonies in which it signs."""
