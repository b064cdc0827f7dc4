"""OAuth 2 for machines over HTTP: token, introspection and revocation endpoints, keys and metadata."""
