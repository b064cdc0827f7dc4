"""Lone sidecars' files, read together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vestibule.errors import SeveralError, VestibuleError
from vestibule.intent.lone.files import LoneFile
from vestibule.intent.lone.moving import Moved, move


def import_sidecars(files: Sequence[Path], mesh: str | None) -> Moved:
    """Raises: VST7320; all that is wrong with any of them."""
    lones, errors = [], list[VestibuleError]()
    for path in files:
        try:
            lones.append(LoneFile(path).valid())
        except SeveralError as error:
            errors += error.errors
    if errors:
        raise SeveralError(errors)
    return move(lones, mesh=mesh)
