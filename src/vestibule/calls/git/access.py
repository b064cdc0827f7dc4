"""How git gets in, and whom it believes: a configuration of our own, in which no secret stands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.calls.git.codes import GIT_ADDRESS
from vestibule.calls.git.places import Place

# The file is read each time it is asked for, by the shell: it reaches no argument, no variable and no other host.
_HELPER: Final = (
    '!f() { test "$1" = get || exit 0; IFS= read -r line < "$VESTIBULE_GIT_CREDENTIALS"; '
    'case "$line" in *:*) user="${line%%:*}";; *) user=git;; esac; '
    'printf "username=%s\\npassword=%s\\n" "$user" "${line#*:}"; }; f'
)
_GNUPG: Final = """no-autostart
no-auto-key-retrieve
auto-key-locate clear
disable-dirmngr
no-auto-check-trustdb
trust-model always
"""
"""Every key in this ring is allowed; nothing is asked of any network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What is needed to reach a repository, and to judge its commits; all of it in files that others wrote.

    ``credentials`` holds one line, ``USER:TOKEN`` or a token alone.  ``allowed_signers`` is as of ssh-keygen(1),
    ``allowed_keys`` are OpenPGP public keys.
    """

    credentials: Path | None = None
    ssh_key: Path | None = None
    known_hosts: Path | None = None
    ca: Path | None = None
    allowed_signers: Path | None = None
    allowed_keys: Path | None = None

    @property
    def asks_for_signatures(self) -> bool:
        """Whether only signed commits are taken up."""
        return self.allowed_signers is not None or self.allowed_keys is not None

    def variables(self, gnupg: Path) -> dict[str, str]:
        """What git is told beside its configuration."""
        variables = {"GNUPGHOME": str(gnupg), "GIT_SSH_VARIANT": "ssh", "GIT_SSH_COMMAND": self._ssh()}
        if self.credentials is not None:
            variables["VESTIBULE_GIT_CREDENTIALS"] = str(self.credentials)
        return variables

    def _ssh(self) -> str:
        options = [
            *("BatchMode=yes", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null"),
            *("IdentitiesOnly=yes", "IdentityAgent=none", "ForwardAgent=no", "ClearAllForwardings=yes"),
            *("PermitLocalCommand=no", "ConnectTimeout=10", "ServerAliveInterval=10"),
            f'UserKnownHostsFile="{self.known_hosts or "/dev/null"}"',
            f'IdentityFile="{self.ssh_key or "/dev/null"}"',
        ]
        return shlex.join(["ssh", "-F", "/dev/null", *(word for each in options for word in ("-o", each))])

    def configuration(self, place: Place) -> str:
        """The file that takes the place of ``~/.gitconfig``."""
        lines = [
            *("[core]", "hooksPath = /dev/null", "bigFileThreshold = 1m", "fsmonitor = false"),
            *("[fetch]", "recurseSubmodules = false", "fsckObjects = true", "writeCommitGraph = false"),
            # What old programs wrote wrongly and means no harm.
            *('[fetch "fsck"]', "zeroPaddedFilemode = ignore", "missingSpaceBeforeDate = ignore"),
            *("badTimezone = ignore", "[gc]", "autoDetach = false", "[maintenance]", "autoDetach = false"),
            # Another host would be asked in the name of the first.
            *("[http]", "followRedirects = false", "lowSpeedLimit = 1000", "lowSpeedTime = 30"),
        ]
        if self.ca is not None:
            lines.append(f"sslCAInfo = {_quoted(self.ca)}")
        if self.credentials is not None and place.is_https:
            lines += [f"[credential {_quoted(place.origin)}]", f"helper = {_quoted(_HELPER)}"]
        if place.path is not None:
            # It was named by the operator, whoever owns it.
            lines += [
                "[safe]",
                f"directory = {_quoted(place.path)}",
                f"directory = {_quoted(place.path / '.git')}",
            ]
        lines += ["[gpg]", "minTrustLevel = undefined", '[gpg "x509"]', "program = /bin/false"]
        lines += ['[gpg "openpgp"]', f"program = {'gpg' if self.allowed_keys else '/bin/false'}"]
        signers = self.allowed_signers or "/dev/null"
        lines += ['[gpg "ssh"]', f"allowedSignersFile = {_quoted(signers)}"]
        return "\n".join(lines) + "\n"


GNUPG_CONFIGURATION: Final = _GNUPG


def _quoted(value: object) -> str:
    """A value as git-config(1) reads it back.  Raises: VST3220."""
    text = str(value)
    if "\n" in text or "\0" in text:
        raise GIT_ADDRESS.error("a path in the settings holds a line break")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
