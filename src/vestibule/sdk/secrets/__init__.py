"""Secrets for applications: read, watched for newer versions, and credentials that are renewed before they end.

::

    async with AsyncSecrets() as secrets:
        password = (await secrets.read("payments/db"))["password"]
        async for newer in secrets.watch("payments/db"):
            reconnect(newer["password"])

``Secrets`` does the same for code that blocks.  There is no login and no token: the caller is who its sidecar, or its
X509-SVID, says.  The address is that of the sidecar (``http://…``, from ``VAULT_ADDR``, which sidecars set), or the
secret manager's own (``https://…``), to which a client shows its SVID from the Workload API.  Needs the base install
only.
"""

from vestibule.sdk.secrets.answers import Credential, Secret
from vestibule.sdk.secrets.blocking import Secrets
from vestibule.sdk.secrets.client import AsyncSecrets
from vestibule.sdk.secrets.credentials import KeptCredential
from vestibule.sdk.secrets.errors import (
    NoSuchSecretError,
    SecretConflictError,
    SecretDeniedError,
    SecretsError,
)

__all__ = [
    "AsyncSecrets",
    "Credential",
    "KeptCredential",
    "NoSuchSecretError",
    "Secret",
    "SecretConflictError",
    "SecretDeniedError",
    "Secrets",
    "SecretsError",
]
