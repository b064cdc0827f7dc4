"""The secret manager's HTTP API, in the dialect of Vault, so that its clients work unmodified."""
