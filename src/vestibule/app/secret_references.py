"""Where a secret is, in place of the secret: what settings may say of a password."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.app.codes import INVALID_SETTING
from vestibule.keys.secrets import Secret, secret_in_file

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference:
    """A file of mode 0600, or the name of an environment variable; exactly one of them."""

    file: Path | None = None
    variable: str = ""

    @classmethod
    def parse(cls, text: str) -> SecretReference:
        """``file:/etc/vestibule/database`` or ``env:VESTIBULE_DATABASE``.

        Raises: VST9110, whose text does not repeat what was given: it may be the secret itself.
        """
        kind, _, rest = text.partition(":")
        if kind == "file" and rest and not rest.startswith("//"):
            return cls(file=Path(rest).expanduser().absolute())
        if kind == "env" and _VARIABLE.fullmatch(rest):
            return cls(variable=rest)
        raise INVALID_SETTING.error(
            "a secret does not stand in settings",
            advice="Write file:/PATH or env:VARIABLE, where it can be read.",
        )

    def __str__(self) -> str:
        return f"file:{self.file}" if self.file else f"env:{self.variable}"

    def read(self) -> Secret:
        """The secret.  Raises: VST1105 (the file), VST9110 (there is no such variable)."""
        if self.file is not None:
            return secret_in_file(self.file)
        # Taken out, so that no child inherits it.
        text = os.environ.pop(self.variable, "")
        if not text:
            raise INVALID_SETTING.error(f"the environment variable {self.variable} is not set")
        return Secret(text)
