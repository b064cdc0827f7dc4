"""The upstream ``ceremony``: an intermediate whose key the server holds, and which an offline root signs by hand.

==========  =====================================================================================================
waiting     there is no intermediate yet: a request is made and waits for the root; nothing is issued
issuing     the newest intermediate that is valid signs the server's own, short-lived authorities
request     at two thirds of its life (or when told to) the request for the next one is made; from then on the
            operator is warned until the answer is there
delivered   over the private socket or into the drop directory: checked, kept, and used from the next authority on;
            the private key of the one before is gone then
==========  =====================================================================================================

A directory holds it all: ``NAME.csr`` (a request), ``NAME.pem`` (an installed answer) and ``transcript.txt``.  The key
of NAME is ``ceremony-NAME`` in the server's key manager, so a restart in the middle of a ceremony changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import Beacon
from vestibule.identity.ca.codes import NO_REQUEST, WAITING_FOR_CEREMONY
from vestibule.identity.ca.disk import record_mint
from vestibule.identity.ca.files import Transcript, make_directory, read, refuse_existing, write_new
from vestibule.identity.ca.requests import (
    Intermediate,
    Request,
    check_name,
    make_request,
    read_answer,
    read_request,
    record_install,
)
from vestibule.identity.ca.roots_file import RootsFile
from vestibule.identity.ca.watched_files import LOOK_SECONDS, Stamp, stamp
from vestibule.identity.upstream import UpstreamChain
from vestibule.keys import KeyManager
from vestibule.pki.csr import parse_csr
from vestibule.pki.profiles import Issuer, authority_id, intermediate_ca, lifetime
from vestibule.spiffe import TrustDomain

KEY_PREFIX: Final = "ceremony-"
DROP: Final = "drop"
REQUEST: Final = ".csr"
ANSWER: Final = ".pem"
_SUFFIXES: Final = ("", *"bcdefghijklmnopqrstuvwxyz")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CeremonyState:
    """What there is to see of it.  ``intermediate`` signs now; ``request`` waits for the root."""

    intermediate: Intermediate | None
    request: Request | None
    request_file: bytes
    warning: str
    problem: str
    roots: tuple[bytes, ...]


class CeremonyUpstream:
    """An ``UpstreamAuthority`` whose own certificate comes from a ceremony."""

    name = "ceremony"

    def __init__(
        self,
        directory: Path,
        roots: Path,
        environment: str,
        trust_domain: TrustDomain,
        keys: KeyManager,
        audit: Audit,
        clock: Clock,
    ) -> None:
        """``environment`` begins the names of intermediates: ``prod`` asks for ``prod-2026-Q4``.  Raises: VST1031."""
        self._directory = directory
        self._roots = RootsFile(roots, trust_domain)
        self._environment = check_name(environment)
        self._trust_domain = trust_domain
        self._keys = keys
        self._audit = audit
        self._clock = clock
        self._transcript = Transcript(directory)
        self._installed: tuple[Intermediate, ...] = ()
        self._refused: dict[str, Stamp] = {}
        self._beacon = Beacon()
        self._one_change = asyncio.Lock()
        self.problem = ""

    # ------------------------------------------------------------------------------------ as an upstream

    async def mint(self, csr: bytes, ttl: timedelta) -> UpstreamChain:
        """Sign one of our authorities with the newest intermediate.

        Raises: VST1384 (there is none), VST1386; VST1000, VST1001, VST1003 (the request), errors of keys and audit.
        """
        facts, now = parse_csr(csr), self._clock.now()
        intermediate = self.current(now)
        if intermediate is None:
            raise WAITING_FOR_CEREMONY.error("there is no valid intermediate: its request waits for the root")
        issuer = Issuer.of(intermediate.chain[0], self._trust_domain)
        valid = lifetime(now, ttl, intermediate.not_after)
        builder = intermediate_ca(facts.public_key, valid, issuer)
        subject = authority_id(facts.public_key)
        await record_mint(self._audit, self.name, subject, issuer, valid.not_after.isoformat())
        der = await self._keys.sign_certificate(KEY_PREFIX + intermediate.name, builder)
        return UpstreamChain(chain=(der, *intermediate.chain), roots=self._roots.read())

    async def roots(self) -> AsyncIterator[tuple[bytes, ...]]:
        """The configured roots now, and after every change of their file.  Raises: VST1386."""
        async for roots in self._roots.versions():
            yield roots

    # ---------------------------------------------------------------------------------- its own ceremony

    async def start(self) -> None:
        """Read what is kept; where there is no intermediate, a request waits afterwards.

        Raises: VST1381, VST1386, VST1030, errors of keys and audit.
        """
        make_directory(self._directory)
        make_directory(self._directory / DROP)
        await self._read_installed()
        if self.current(self._clock.now()) is None:
            await self.request()

    async def run(self) -> None:
        """Look into the drop directory, and make the next request when it is time."""
        while True:
            try:
                await self._look()
            except (VestibuleError, OSError) as error:
                self.problem = str(error)
                _log.error("the ceremony cannot go on: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def issuing(self) -> None:
        """Wait until there is an intermediate to sign with; ``run`` or ``deliver`` brings it."""
        while self.current(self._clock.now()) is None:
            await self._beacon.changed(self._beacon.value)

    def current(self, now: datetime) -> Intermediate | None:
        """What signs: of the valid ones, that which was installed last."""
        valid = [each for each in self._installed if each.not_before <= now < each.not_after]
        return valid[-1] if valid else None

    def ends(self) -> datetime | None:
        """When the intermediate that signs now ends."""
        current = self.current(self._clock.now())
        return None if current is None else current.not_after

    def is_waiting(self) -> bool:
        """Whether a request waits for the root."""
        return self._waiting() is not None

    def state(self) -> CeremonyState:
        """What there is to see.  Raises: VST1381, VST1386."""
        waiting = self._waiting()
        file = b"" if waiting is None else read(waiting)
        return CeremonyState(
            intermediate=self.current(self._clock.now()),
            request=None if waiting is None else read_request(file),
            request_file=file,
            warning=self.warning(),
            problem=self.problem,
            roots=self._roots.read(),
        )

    def warning(self) -> str:
        """What an operator should do about it now; empty when nothing."""
        now, waiting = self._clock.now(), self._waiting()
        current = self.current(now)
        if current is None:
            return "waiting for the ceremony: nothing is issued before the root has signed the request"
        if now < _request_at(current):
            return ""
        days = max(0, (current.not_after - now).days)
        next_step = "have its request signed" if waiting else "make a request for the next one"
        return (
            f"the intermediate {current.name} ends in {days} days, on {current.not_after.date()}: {next_step}"
        )

    async def request(self, name: str = "", actor: str = "server") -> Request:
        """The request that waits; made now if there is none.  Raises: VST1380 (the name was used), VST1031, …"""
        async with self._one_change:
            if (waiting := self._waiting()) is not None:
                return read_request(read(waiting))
            name = check_name(name) if name else self._next_name()
            refuse_existing(self._path(name, REQUEST), self._path(name, ANSWER))
            key_id = KEY_PREFIX + name
            details = {"name": name, "key_id": key_id}
            await self._record("ceremony.request", actor, name, details)
            await self._keys.generate(key_id)
            now = self._clock.now()
            file = await make_request(self._transcript, self._keys, key_id, name, self._trust_domain, now)
            write_new(self._path(name, REQUEST), file)
            _log.warning("the request for the intermediate %s waits for the root", name)
            return read_request(file)

    async def deliver(self, answer: bytes, actor: str = "server") -> Intermediate:
        """Take the root's answer to the request that waits, after checking all of it.

        Raises: VST1387 (nothing waits), VST1385, VST1032, VST1386, errors of keys and audit.
        """
        async with self._one_change:
            if (waiting := self._waiting()) is None:
                raise NO_REQUEST.error("no request waits for a ceremony")
            asked, now = read_request(read(waiting)), self._clock.now()
            roots = self._roots.read()
            taken = read_answer(answer, asked.name, asked.public_key, roots, self._trust_domain, now)
            details = {
                "name": taken.name,
                "serial": f"{taken.certificate.serial_number:x}",
                "not_after": taken.not_after.isoformat(),
            }
            await self._record("ceremony.install", actor, asked.key_id, details)
            await record_install(self._transcript, self._keys, KEY_PREFIX + taken.name, taken, now)
            write_new(self._path(taken.name, ANSWER), answer)
            replaced, self._installed = self._installed, (taken,)
            self.problem = ""
            self._beacon.advance()
            for each in replaced:  # what signs no more can be stolen no more
                await self._keys.delete(KEY_PREFIX + each.name)
            _log.info("the intermediate %s is installed", taken.name)
            return taken

    # --------------------------------------------------------------------------------------- behind it

    async def _look(self) -> None:
        current = self.current(self._clock.now())
        if self._waiting() is None and (current is None or self._clock.now() >= _request_at(current)):
            await self.request()
        for path in sorted((self._directory / DROP).glob(f"*{ANSWER}")):
            seen = stamp([path])
            if self._refused.get(path.name) == seen:
                continue
            try:
                await self.deliver(read(path), "drop-directory")
            except VestibuleError as error:
                self._refused[path.name] = seen
                self.problem = f"{path.name} in the drop directory is refused: {error}"
                _log.error("%s", self.problem)
            else:
                path.unlink()

    async def _read_installed(self) -> None:
        """What was installed, in that order; what the roots no longer vouch for, or whose key is lost, is left out."""
        found: list[Intermediate] = []
        keys, roots, now = await self._keys.key_ids(), self._roots.read(), self._clock.now()
        order = [
            each.step.facts["name"] for each in self._transcript.steps() if each.step.action == "install"
        ]
        for name in dict.fromkeys(order):
            path, asked = self._path(name, ANSWER), self._path(name, REQUEST)
            if KEY_PREFIX + name not in keys or not path.exists():
                continue
            key = read_request(read(asked)).public_key
            try:
                found.append(read_answer(read(path), name, key, roots, self._trust_domain, now))
            except VestibuleError as error:
                _log.warning("the intermediate %s is not used: %s", name, error.message)
        self._installed = tuple(found)

    def _waiting(self) -> Path | None:
        """The request without an answer."""
        found = [
            path
            for path in self._directory.glob(f"*{REQUEST}")
            if not path.with_name(path.name.removesuffix(REQUEST) + ANSWER).exists()
        ]
        return min(found, default=None)

    def _path(self, name: str, suffix: str) -> Path:
        return self._directory / f"{name}{suffix}"

    def _next_name(self) -> str:
        now = self._clock.now()
        name = f"{self._environment}-{now.year}-Q{(now.month + 2) // 3}"
        free = (name + suffix for suffix in _SUFFIXES if not self._path(name + suffix, REQUEST).exists())
        return check_name(next(free, f"{name}-{now:%m%dT%H%M%S}"))

    async def _record(self, action: str, actor: str, subject: str, details: dict[str, str]) -> None:
        await self._audit.record([AuditEvent(actor=actor, action=action, subject=subject, details=details)])


def _request_at(intermediate: Intermediate) -> datetime:
    """When the next one is asked for: people need weeks where a machine needs seconds."""
    return intermediate.not_after - (intermediate.not_after - intermediate.not_before) / 3
