"""Taking rules out of a service's file, in the private copy, and putting the file back as it was."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from ruamel.yaml import YAML

from vestibule.app.up.proofs.proof import CannotTry


class PolicyFile:
    """One service's file.  Whatever happens inside the ``with`` block, the file is put back at its end."""

    def __init__(self, directory: Path, service: str) -> None:
        self._service = service
        self._path = directory / "services" / f"{service}.yaml"
        if not self._path.is_file():
            self._path = self._path.with_suffix(".yml")
        self._original = b""

    def __enter__(self) -> Self:
        self._original = self._path.read_bytes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.put_back()

    def remove(self, rules: Collection[str]) -> None:
        """Write the file without these rules (``service/id``).  Raises: CannotTry if it has none of them."""
        self._write(without(self._original, self._service, rules))

    def put_back(self) -> None:
        """Write the file as it was."""
        if self._path.read_bytes() != self._original:
            self._write(self._original)

    def _write(self, content: bytes) -> None:
        # At once, as editors do: a half-written file would be a problem of its own.
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_bytes(content)
        partial.replace(self._path)


def without(content: bytes, service: str, rules: Collection[str]) -> bytes:
    """A service's file without some of its rules; the rest stays as people wrote it.  Raises: CannotTry."""
    yaml = YAML()
    document = yaml.load(content)
    kept = [rule for rule in document.get("allow") or () if f"{service}/{rule['id']}" not in rules]
    if len(kept) == len(document.get("allow") or ()):
        raise CannotTry(f"the file of {service} has none of the rules {', '.join(rules)}")
    document["allow"] = kept
    written = io.BytesIO()
    yaml.dump(document, written)
    return written.getvalue()
