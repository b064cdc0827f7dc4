"""One endpoint, looked at from all sides: a handful of connections, one after the other.

1. A handshake without a certificate, then a harmless request: version, cipher, chain, what is asked of callers, and
   whether a caller without a certificate is let in.
2. If certificates are asked for: the same with a certificate that nobody can know, and with that of whoever scans.
3. If callers are known by certificates: again with the session of before, which may spare a caller the question.
4. The older versions of TLS, and weak cipher suites, by their first message alone.
5. A request without TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from OpenSSL import SSL

from vestibule.clock import Clock
from vestibule.diagnose.scan.asking import QUIET, QUIET_LONG, ask, refusal
from vestibule.diagnose.scan.authorities import Authorities, host_name_fits
from vestibule.diagnose.scan.certificates import read_certificate
from vestibule.diagnose.scan.hello import VERSIONS, Refused, ServerHello, client_hello, read_answer
from vestibule.diagnose.scan.pace import Pace
from vestibule.diagnose.scan.plaintext import ask_h2c, ask_plain, plaintext
from vestibule.diagnose.scan.session import (
    NO_APPLICATION_PROTOCOL,
    Ending,
    Seen,
    Session,
    client_context,
)
from vestibule.diagnose.scan.starttls import STARTTLS, NotOffered
from vestibule.diagnose.scan.wire import Flooded, NoConnectionError, Wire, connected
from vestibule.posture import (
    Accepted,
    Answer,
    ClientCertificates,
    Facts,
    Outcome,
    Plain,
    Plaintext,
    Target,
    Tls,
    Trust,
    is_address,
    printable,
)
from vestibule.posture.ciphers import BROKEN, MERELY_WEAK, SUITES, named
from vestibule.spiffe import X509Svid

MOST_SUITES: Final = 12
"""Weak suites of one kind that are found out one by one; each takes a connection."""
PATIENCE: Final = 2.0
"""Seconds for an answer to a request, of an endpoint whose handshakes are quick."""
_SHARE: Final = 0.8
"""Of a connection's time, at most, for a refusal that may come."""
BUDGET: Final = 6
"""The longest that one endpoint may take, in timeouts."""


@dataclass(slots=True, kw_only=True)
class Settings:
    """How to scan; ``timeout`` is in seconds, for one connection; ``foreign`` is an identity that nobody can know."""

    timeout: float
    pace: Pace
    clock: Clock
    authorities: Authorities
    foreign: X509Svid
    own: X509Svid | None = None
    starttls: str = ""
    server_name: str = ""
    contexts: dict[str, SSL.Context] = field(init=False)

    def __post_init__(self) -> None:
        identities = {"foreign": self.foreign, "own": self.own}
        self.contexts = {
            name: client_context((each.chain, each.key))
            for name, each in identities.items()
            if each is not None
        }
        self.contexts["none"] = client_context(None)
        self.contexts["no alpn"] = client_context(None, alpn=False)


class Endpoint:
    """One target; ``look`` once."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self._target = target
        self._settings = settings
        self._name = settings.server_name or ("" if is_address(target.host) else target.host)
        self._unreachable = ""
        self._troubles: list[str] = []
        self._seen: Seen | None = None
        self._accepted: dict[str, str] = {}
        self._weak: list[str] = []
        self._without = Answer(outcome=Outcome.UNKNOWN)
        self._foreign: Answer | None = None
        self._own: Answer | None = None
        self._sessions: dict[str, SSL.Session | None] = {}
        self._resumes = False
        self._plaintext = Plaintext()

    async def look(self) -> Facts:
        """All that can be seen within the limits; never raises for what an endpoint does."""
        limit = BUDGET * self._settings.timeout
        try:
            async with asyncio.timeout(limit):
                await self._look()
        except TimeoutError:
            self._troubles.append(f"it took longer than {limit:g} s altogether; the rest was not looked at")
        return self._facts()

    async def _look(self) -> None:
        ending = await self._first()
        if self._unreachable:
            return
        if self._speaks_tls:
            await self._callers()
            await self._resumption()
            await self._older_versions()
            await self._weak_suites()
        elif ending is Ending.CLOSED:
            await self._older_versions()  # some hang up on what they are too old for
        await self._without_tls()
        self._complain(ending)

    @property
    def _speaks_tls(self) -> bool:
        return self._seen is not None and self._seen.hello

    # ------------------------------------------------------------------------------------ connections

    @asynccontextmanager
    async def _wire(self, *, starttls: bool = True) -> AsyncIterator[Wire]:
        """A connection, within the timeout.  Raises: OSError, TimeoutError, NotOffered."""
        await self._settings.pace.turn()
        async with connected(self._target, self._settings.timeout) as wire:
            if starttls and self._settings.starttls:
                await STARTTLS[self._settings.starttls](wire)
            yield wire

    async def _first(self) -> Ending:
        """Step 1; everything else depends on it."""
        ending, answer = await self._meet("none")
        if self._seen is not None and self._seen.alert == NO_APPLICATION_PROTOCOL:
            ending, answer = await self._meet("no alpn")
        self._without = answer
        return ending

    async def _meet(self, caller: str) -> tuple[Ending, Answer]:
        """A handshake as this caller, and a question; asked again, with more patience, if the answer is not clear."""
        for quiet in (QUIET, QUIET_LONG, self._settings.timeout):
            ending, answer = await self._try(caller, min(quiet, _SHARE * self._settings.timeout))
            if answer is not None:
                return ending, answer
        # Refused, with a reset that was quicker than the alert; or it does not speak HTTP, and is not talkative.
        return Ending.DONE, Answer(outcome=Outcome.UNKNOWN, detail="closed after a request")

    async def _try(self, caller: str, quiet: float) -> tuple[Ending, Answer | None]:
        unknown = Answer(outcome=Outcome.UNKNOWN)
        session: Session | None = None
        try:
            async with self._wire() as wire:
                session = Session(wire, self._settings.contexts[caller], self._name)
                ending = await session.shake_hands()
                self._keep(caller, session.seen)
                if ending is not Ending.DONE:
                    refused = ending is Ending.ALERT and session.seen.requested
                    return ending, refusal(session, ending) if refused else self._unsaid(session, ending)
                wary = session.seen.requested
                patience = min(PATIENCE, self._settings.timeout / 2)
                protocol = self._settings.starttls
                asked = await ask(
                    session, self._target, wary=wary, quiet=quiet, patience=patience, protocol=protocol
                )
                self._sessions[caller] = session.leave()
                return ending, asked
        except TimeoutError:
            if session is not None:
                self._keep(caller, session.seen)
            return Ending.STALLED, unknown
        except NotOffered as error:
            self._plaintext = Plaintext(kind=Plain.OTHER, detail=printable(str(error), 80))
            return Ending.NONSENSE, unknown
        except NoConnectionError as error:
            self._unreachable = str(error) if self._seen is None else ""
            return Ending.CLOSED, unknown
        except (OSError, Flooded):
            return Ending.CLOSED, unknown

    def _unsaid(self, session: Session, ending: Ending) -> Answer:
        if ending is Ending.CLOSED and session.seen.requested:
            return Answer(outcome=Outcome.CLOSED, detail="closed in the handshake")
        detail = session.seen.alert_name if ending is Ending.ALERT else ending.value
        return Answer(outcome=Outcome.UNKNOWN, detail=detail)

    def _keep(self, caller: str, seen: Seen) -> None:
        """The first handshake's word counts; that of others only where it broke off."""
        if caller in ("none", "no alpn") and (self._seen is None or seen.hello):
            self._seen = seen

    # ------------------------------------------------------------------------------------ the steps

    async def _callers(self) -> None:
        """Step 2."""
        assert self._seen is not None
        if not self._seen.requested:
            return
        _, self._foreign = await self._meet("foreign")
        if self._settings.own is not None:
            _, self._own = await self._meet("own")

    async def _resumption(self) -> None:
        """Step 3: of interest only where callers are known by certificates."""
        assert self._seen is not None
        if not self._seen.requested or self._without.let_in:
            return
        caller = "own" if self._own is not None and self._own.let_in else "none"
        before = self._sessions.get(caller)
        if before is None:
            return
        with suppress(OSError, TimeoutError, Flooded, NotOffered):
            async with self._wire() as wire:
                session = Session(wire, self._settings.contexts[caller], self._name, before)
                ending = await session.shake_hands()
                self._resumes = ending is Ending.DONE and not session.seen.certificate

    async def _older_versions(self) -> None:
        """Step 4, the versions."""
        seen = self._seen
        if seen is not None and seen.version == "TLSv1.3":
            self._accepted["TLSv1.3"] = seen.cipher
        for version in VERSIONS:
            hello = await self._hello(version, tuple(SUITES))
            if hello is None:
                return
            if isinstance(hello, ServerHello) and hello.version not in self._accepted:
                (self._accepted[hello.version],) = named([hello.suite])
        if seen is not None and seen.hello and seen.cipher and seen.version not in self._accepted:
            self._accepted[seen.version] = seen.cipher

    async def _weak_suites(self) -> None:
        """Step 4, the suites."""
        older = [version for version in VERSIONS if version in self._accepted]
        for kind in (BROKEN, MERELY_WEAK) if older else ():
            left = list(kind)
            for _ in range(MOST_SUITES):
                hello = await self._hello(older[0], left)
                if not isinstance(hello, ServerHello) or hello.suite not in left:
                    break
                left.remove(hello.suite)
                self._weak += named([hello.suite])

    async def _hello(self, version: str, suites: Sequence[int]) -> ServerHello | Refused | None:
        """What is answered to a first message; None when nothing is."""
        try:
            async with self._wire() as wire:
                await wire.send(client_hello(version, suites, self._name))
                data = b""
                while (answer := read_answer(data)) is None:
                    if not (more := await wire.receive()):
                        return Refused()
                    data += more
                return answer
        except TimeoutError:
            return None
        except (OSError, Flooded, NotOffered):
            return Refused()

    async def _without_tls(self) -> None:
        """Step 5."""
        if self._settings.starttls:
            return
        patience = min(PATIENCE, self._settings.timeout / 2)
        data = await self._plainly(lambda wire: ask_plain(wire, self._target, patience))
        tls = self._speaks_tls or bool(self._accepted)
        self._plaintext = plaintext(data, beside_tls=tls)
        unclear = not tls and self._plaintext.kind in (Plain.REFUSED, Plain.SILENT)
        if unclear and await self._plainly(lambda wire: ask_h2c(wire, patience)):
            self._plaintext = Plaintext(kind=Plain.HTTP2, detail="HTTP/2")

    async def _plainly(self, question: Callable[[Wire], Awaitable[bytes | bool | None]]) -> bytes | None:
        try:
            async with self._wire(starttls=False) as wire:
                found = await question(wire)
                return found if isinstance(found, bytes) else (b"yes" if found else None)
        except TimeoutError:
            return None
        except (OSError, Flooded):
            return b""

    def _complain(self, ending: Ending) -> None:
        """Say what could not be seen, and why."""
        if self._speaks_tls:
            if ending in (Ending.STALLED, Ending.FLOODED, Ending.NONSENSE):
                self._troubles.append(f"its handshake did not end: {ending.value}")
            return
        kind = self._plaintext.kind
        if ending is Ending.FLOODED:
            self._troubles.append("it sent without end, in the place of a handshake")
        elif kind is Plain.SILENT and ending is Ending.STALLED:
            self._troubles.append(
                f"it took the connection, and said nothing for {self._settings.timeout:g} s"
            )
        elif kind is Plain.GARBAGE:
            self._troubles.append("it speaks neither TLS nor HTTP")
        elif kind in (Plain.REFUSED, Plain.SILENT) and not self._accepted:
            self._troubles.append("it answers neither TLS nor HTTP")

    # ------------------------------------------------------------------------------------ the facts

    def _facts(self) -> Facts:
        now = self._settings.clock.now()
        return Facts(
            target=self._target,
            seen=now,
            unreachable=self._unreachable,
            troubles=tuple(self._troubles),
            tls=self._tls(now) if self._speaks_tls or self._accepted else None,
            plaintext=self._plaintext,
        )

    def _tls(self, now: datetime) -> Tls:
        seen = self._seen or Seen()
        chain = tuple(read_certificate(der) for der in seen.certificates)
        trust, fits = Trust(), None
        if chain and chain[0].subject + "".join(chain[0].uris) + chain[0].issuer:
            trust = self._settings.authorities.judge(tuple(seen.certificates), chain[0], now)
            fits = host_name_fits(self._settings.server_name or self._target.host, chain[0])
        order = ("TLSv1.3", *VERSIONS, "SSLv3")
        versions = sorted(self._accepted, key=lambda each: order.index(each) if each in order else len(order))
        return Tls(
            accepted=tuple(Accepted(version=each, cipher=self._accepted[each]) for each in versions),
            weak_ciphers=tuple(self._weak),
            alpn=seen.alpn,
            chain=chain,
            trust=trust,
            host_name_fits=fits,
            clients=ClientCertificates(
                requested=seen.requested,
                authorities=tuple(seen.authorities),
                without=self._without,
                foreign=self._foreign,
                own=self._own,
                own_id=str(self._settings.own.spiffe_id) if self._settings.own is not None else "",
            ),
            resumes=self._resumes,
        )
