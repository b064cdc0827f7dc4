"""Where the decision log goes, and what is left out of it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vestibule.observe.masking import Mask

DEFAULT_FILE: Final = Path("decisions.jsonl")
MOST_FILES: Final = 1000
SMALLEST_FILE: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLogSettings:
    """``file`` is looked for in the agent's data directory.  ``sample`` is per cent of the calls that were allowed.

    ``url`` is told of decisions by POST, as a gzipped JSON array.  ``file_size`` is in bytes.
    """

    file: Path | None = DEFAULT_FILE
    file_size: int = 16 * 1024 * 1024
    files_kept: int = 4
    stdout: bool = False
    url: str = ""
    bearer_token_file: Path | None = None
    ca_file: Path | None = None
    sample: int = 100
    mask: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 100:
            raise ValueError("sample is per cent: 0 to 100")
        if self.file_size < SMALLEST_FILE or not 1 <= self.files_kept <= MOST_FILES:
            raise ValueError(
                f"files hold {SMALLEST_FILE} bytes at least, and 1 to {MOST_FILES} of them are kept"
            )
        Mask.parse(self.mask)
        if self.url:
            _check_url(self.url)
        elif self.bearer_token_file is not None or self.ca_file is not None:
            raise ValueError("a token and authorities are for a url")


def _check_url(text: str) -> None:
    """Decisions say who called what: they go over TLS, or stay on this machine."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.fragment:
        raise ValueError(f"{text[:80]!r} is not https://HOST[:PORT]/PATH")
    if url.scheme == "http" and not _is_here(url.hostname):
        raise ValueError("decisions go to other machines by https only")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
