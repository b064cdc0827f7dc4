"""How the ``ca`` commands come by the root's key: a passphrase or a PIN, from a file, a descriptor or a prompt."""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer

from vestibule.cli.codes import USAGE
from vestibule.identity.ca.files import read, write_new
from vestibule.identity.ca.root import KEY_ID, Root
from vestibule.keys import KeyManager, MemoryKeyManager
from vestibule.keys.codes import SECRET_REFUSED
from vestibule.keys.secrets import Secret, secret_from_descriptor, secret_in_file
from vestibule.pki.encrypted_keys import decrypt_key, encrypt_key
from vestibule.pki.keys import generate_key, public_key_der


class RootKeys(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """Where a root's key is kept."""

    FILE = "file"
    PKCS11 = "pkcs11"


_IN_TOKEN: Final = f"{RootKeys.PKCS11.value} "

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="Where the passphrase of the root's key is, mode 600."),
]
PassphraseFdOption = Annotated[
    int | None, typer.Option("--passphrase-fd", help="Or an inherited descriptor. [default: a prompt]")
]
ModuleOption = Annotated[
    Path | None, typer.Option("--pkcs11-module", help="For a root in a token: its vendor's shared library.")
]
TokenOption = Annotated[
    str | None, typer.Option("--pkcs11-token", metavar="LABEL", help="The token's label.")
]
PinFileOption = Annotated[
    Path | None, typer.Option("--pkcs11-pin-file", help="Where the token's PIN is, mode 600.")
]
PinFdOption = Annotated[int | None, typer.Option("--pkcs11-pin-fd", help="Or an inherited descriptor.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """What was said about the root's key."""

    passphrase_file: Path | None = None
    passphrase_fd: int | None = None
    module: Path | None = None
    token: str | None = None
    pin_file: Path | None = None
    pin_fd: int | None = None

    async def made(self, kind: RootKeys, root: Root, name: str) -> tuple[KeyManager, str]:
        """A new key for a root, and where it is, as the transcript will tell.

        Raises: VST1380 (there is one), VST1381, VST1105, VST1034, errors of the token.
        """
        if kind is RootKeys.PKCS11:
            keys = self._in_token(name)
            if KEY_ID in await keys.key_ids():
                raise USAGE.error(
                    f"the token has a root key named {name} already", advice="Take another name."
                )
            await keys.generate(KEY_ID)
            return keys, f"{_IN_TOKEN}{self.token} {name}"
        key = generate_key()
        write_new(root.key_file, encrypt_key(key, self._secret("passphrase", confirm=True).reveal()))
        return _holding(key), "file"

    def opened(self, root: Root) -> KeyManager:
        """The key of a root that exists.  Raises: VST1381, VST1105, VST1033, errors of the token."""
        register = root.register()
        if register.keys.startswith(_IN_TOKEN):
            return self._in_token(register.name)
        key = decrypt_key(read(root.key_file), self._secret("passphrase").reveal())
        # The cipher does not authenticate; the certificate does.
        if public_key_der(key.public_key()) != public_key_der(root.certificate().public_key()):  # type: ignore[arg-type]
            raise SECRET_REFUSED.error(f"{root.key_file} is not the key of the root's certificate")
        return _holding(key)

    def _in_token(self, namespace: str) -> KeyManager:
        from vestibule.keys.pkcs11 import Pkcs11KeyManager

        if self.module is None or not self.token:
            raise USAGE.error(
                "the root's key is in a token", advice="Give --pkcs11-module and --pkcs11-token as well."
            )
        return Pkcs11KeyManager(self.module, self.token, self._secret("PIN"), namespace=namespace)

    def _secret(self, what: str, *, confirm: bool = False) -> Secret:
        pin = what == "PIN"
        file = self.pin_file if pin else self.passphrase_file
        descriptor = self.pin_fd if pin else self.passphrase_fd
        if file is not None and descriptor is not None:
            raise USAGE.error(f"the {what} can come from one place only")
        if file is not None:
            return secret_in_file(file)
        if descriptor is not None:
            return secret_from_descriptor(descriptor)
        if not sys.stdin.isatty():
            option = "--pkcs11-pin" if pin else "--passphrase"
            raise SECRET_REFUSED.error(
                f"there is nobody to ask for the {what}: give {option}-file or {option}-fd"
            )
        text = getpass.getpass(f"{what.capitalize() if not pin else what}: ")
        if confirm and getpass.getpass("Again: ") != text:
            raise SECRET_REFUSED.error("the two entries differ")
        return Secret(text)


def _holding(key: object) -> MemoryKeyManager:
    keys = MemoryKeyManager()
    keys.hold(KEY_ID, key)  # type: ignore[arg-type]  # made or opened above
    return keys
