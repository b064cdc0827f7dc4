"""How SVIDs stand in files for programs that read files, and how those programs learn of new ones."""

from __future__ import annotations

import base64
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.calls.workload_api import X509Context
from vestibule.cli.codes import USAGE
from vestibule.spiffe import X509Svid

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
COMMAND_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which files there are.

    Without names, every identity has ``svid.N.pem``, ``svid.N.key`` and ``bundle.N.pem``.  With names, one identity has
    files of these names: the one of ``hint``, else the default one; a file whose name is empty is not written.
    ``combined`` holds key and certificates, for programs that want one file.
    """

    certificate: str = ""
    key: str = ""
    bundle: str = ""
    combined: str = ""
    hint: str = ""
    certificate_mode: int = PUBLIC
    key_mode: int = PRIVATE
    federated: bool = False

    @property
    def is_named(self) -> bool:
        """Whether one identity has files of given names."""
        return any((self.certificate, self.key, self.bundle, self.combined, self.hint))

    def files(self, context: X509Context) -> Iterator[tuple[str, str, int]]:
        """Names, contents and modes; keys before the certificates that they belong to.  Raises: VST9100."""
        if not self.is_named:
            for number, svid in enumerate(context.svids):
                names = (f"bundle.{number}.pem", f"svid.{number}.key", f"svid.{number}.pem")
                yield from self._of(context, svid, *names)
            return
        svid = self._chosen(context)
        names_ = (self.certificate, self.key, self.bundle, self.combined)
        cert, key, bundle = (self.certificate, self.key, self.bundle) if any(names_) else _DEFAULT_NAMES
        yield from self._of(context, svid, bundle, key, cert)
        if self.combined:
            yield self.combined, pem("PRIVATE KEY", svid.key) + _chain(svid), self.key_mode

    def _of(
        self, context: X509Context, svid: X509Svid, bundle: str, key: str, certificate: str
    ) -> Iterator[tuple[str, str, int]]:
        if bundle:
            yield bundle, self._bundle(context, svid), self.certificate_mode
        if key:
            yield key, pem("PRIVATE KEY", svid.key), self.key_mode
        if certificate:
            yield certificate, _chain(svid), self.certificate_mode

    def _bundle(self, context: X509Context, svid: X509Svid) -> str:
        own = context.bundle_of(svid)
        others = [each for each in context.bundles if each.trust_domain != own.trust_domain]
        told = [own, *(others if self.federated else ())]
        return "".join(pem("CERTIFICATE", der) for each in told for der in each.x509_authorities)

    def _chosen(self, context: X509Context) -> X509Svid:
        if not self.hint:
            return context.svids[0]
        found = next((svid for svid in context.svids if svid.hint == self.hint), None)
        if found is None:
            raise USAGE.error(
                f"no identity has the hint {self.hint!r}", advice="`vestibule svid fetch` shows them."
            )
        return found


_DEFAULT_NAMES: Final = ("svid.pem", "svid.key", "bundle.pem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What is done once new files are in place: a signal to the process of a PID file, a command, or both."""

    signal_name: str = ""
    pid_file: Path | None = None
    command: str = ""

    def check(self) -> None:
        """Raises: VST9100 when it cannot be done ever."""
        if bool(self.signal_name) != (self.pid_file is not None):
            raise USAGE.error(
                "--renew-signal and --pid-file belong together", advice="Give both, or --renew-command."
            )
        if self.signal_name and self.signal_name not in signal.Signals.__members__:
            raise USAGE.error(f"{self.signal_name!r} is no signal", advice="Write its name, such as SIGHUP.")

    def tell(self) -> str:
        """Tell whoever reads the files; says what went wrong, which ends nothing: the files are there."""
        return " ".join(filter(None, (self._send_signal(), self._run_command())))

    def _send_signal(self) -> str:
        if self.pid_file is None:
            return ""
        try:
            os.kill(_pid(self.pid_file), signal.Signals[self.signal_name])
        except (OSError, ValueError) as error:
            return f"cannot send {self.signal_name} to the process of {self.pid_file}: {error}."
        return ""

    def _run_command(self) -> str:
        if not self.command:
            return ""
        try:
            # Words, no shell: what stands in the files never comes into a command.
            done = subprocess.run(shlex.split(self.command), check=False, timeout=COMMAND_SECONDS)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return f"cannot run {self.command!r}: {error}."
        return f"{self.command!r} ended with {done.returncode}." if done.returncode else ""


def _pid(path: Path) -> int:
    pid = int(path.read_text("ascii").strip())
    if pid <= 1:
        raise ValueError(f"{pid} is not the ID of one process")  # 0 and below mean many, 1 the system's own
    return pid


def _chain(svid: X509Svid) -> str:
    return "".join(pem("CERTIFICATE", der) for der in svid.chain)


def parse_mode(text: str) -> int:
    """``0640``.  Raises: VST9100."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise USAGE.error(f"{text!r} is no mode of a file", advice="Write it in octal, such as 0640.")
    return mode


def replace_file(path: Path, text: str, mode: int) -> None:
    """The old file or the new one, never a part, and never with a wider mode than asked for."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise USAGE.error(
            f"cannot write {path}: {error.strerror}", advice="Check the directory's rights and space."
        ) from error


def pem(label: str, der: bytes) -> str:
    """DER in PEM's clothes (RFC 7468)."""
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"
