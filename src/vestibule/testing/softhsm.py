"""A PKCS#11 token in software, for tests: SoftHSM2 with a store of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Final

MODULES: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
PIN: Final = "4711-test"


def softhsm_module() -> Path | None:
    """The shared library, where SoftHSM2 is installed together with its tool."""
    if shutil.which("softhsm2-util") is None:
        return None
    return next((path for path in MODULES if path.exists()), None)


class SoftToken:
    """A new token below ``directory``, with a label that no other has.

    SoftHSM finds its store through the environment: ``environment`` is for other processes, and this one's is set.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.label = f"vestibule-{secrets.token_hex(4)}"
        self.store = directory / "tokens"
        self.store.mkdir(parents=True)
        configuration = directory / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {self.store}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.environment = {"SOFTHSM2_CONF": str(configuration)}
        os.environ.update(self.environment)
        self.pin_file = directory / "pin"
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text(PIN + "\n")
        subprocess.run(
            [
                *("softhsm2-util", "--init-token", "--free", "--label", self.label),
                *("--pin", PIN, "--so-pin", "0815-test"),
            ],
            check=True,
            capture_output=True,
            env={**os.environ, **self.environment},
        )
