"""What stands between the platform's own Envoy and the services behind it: the secret manager, the token service."""
