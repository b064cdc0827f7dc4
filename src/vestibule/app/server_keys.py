"""The key manager of a server, as its settings say."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from vestibule.app.server_settings import KeyStorage, ServerSettings
from vestibule.keys import DiskKeyManager, KeyManager, MemoryKeyManager, Sealer, load_or_create_kek
from vestibule.keys.codes import KEY_NOT_KEPT
from vestibule.keys.files import read_private, write_private
from vestibule.keys.secrets import Secret, secret_from_descriptor, secret_in_file

_NAMESPACE_FILE: Final = "pkcs11-namespace"
_NAMESPACE_BYTES: Final = 64


def key_manager(settings: ServerSettings) -> KeyManager:
    """Where the authorities' keys live.  Raises: errors of ``keys``."""
    if settings.key_storage is KeyStorage.MEMORY:
        return MemoryKeyManager()
    if settings.key_storage is KeyStorage.DISK:
        return DiskKeyManager(settings.data_dir / "keys", Sealer(load_or_create_kek(settings.kek)))
    from vestibule.keys.pkcs11 import Pkcs11KeyManager

    assert settings.pkcs11_module is not None
    return Pkcs11KeyManager(
        settings.pkcs11_module,
        settings.pkcs11_token,
        _pin(settings),
        namespace=_namespace(settings.data_dir / _NAMESPACE_FILE),
    )


def _pin(settings: ServerSettings) -> Secret:
    if settings.pkcs11_pin_file is not None:
        return secret_in_file(settings.pkcs11_pin_file)
    assert settings.pkcs11_pin_fd is not None
    return secret_from_descriptor(settings.pkcs11_pin_fd)


def _namespace(path: Path) -> str:
    """The name under which this data directory's keys stand in a token.

    A server removes keys that its database does not know.  With a name of its own, it never touches another's.
    """
    try:
        with suppress(FileExistsError):
            write_private(path, f"vestibule-{secrets.token_hex(8)}\n".encode(), replace=False)
        return read_private(path, _NAMESPACE_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise KEY_NOT_KEPT.error(f"{path} is refused: {error.strerror or error}") from error
