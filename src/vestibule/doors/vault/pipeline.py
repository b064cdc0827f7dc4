"""What becomes of every request, whatever it asks for.

1. An engine says what would be done (``Operation``); nothing has happened yet.
2. Whether the caller may is decided: by the intent's rules, or by being the owner, an administrator, anybody.
3. A refusal is put on record, and answered with the rule's name.
4. What changes something is put on record before it happens.
5. It is done, and wrapped if that was asked for.
6. What came of it is put on record.  Without a record there is no answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.doors.vault.codes import BAD_REQUEST, NO_SUCH_PATH, OPERATORS_ONLY
from vestibule.doors.vault.envelope import envelope
from vestibule.doors.vault.operations import CERTIFICATE, OPERATOR, Answer, Backend, Operation, VaultRequest
from vestibule.doors.vault.token_hashes import Hashed, no_hash, of_answer, of_request
from vestibule.errors import ErrorCode, VestibuleError
from vestibule.net.codes import INTERNAL
from vestibule.secrets.codes import ACCESS_DENIED
from vestibule.secrets.ports import Access, AccessDecision
from vestibule.spiffe import SpiffeId

_log = logging.getLogger(__name__)


Wrap = Callable[[Mapping[str, Any], VaultRequest, timedelta], Awaitable[Mapping[str, Any]]]
"""Keeps an envelope for whoever has the token that is given in its place (``wrap_info``)."""

Counts = Callable[[str, str, float], None]
"""Hears of each request: its verb, what came of it (``ok``, ``denied``, ``error``), its seconds."""

_OWNER: Final = "owner"
_LOCAL: Final = "operator"
_OPEN: Final = "open"
_OPERATORS: Final = "administrators"


def _count_nothing(_verb: str, _outcome: str, _seconds: float) -> None:
    """Where nobody wants to know."""


class Pipeline:
    """``backends`` are the engines by the first segment of their paths, or below ``sys`` by the first two."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        access: Access,
        audit: Audit,
        *,
        is_operator: Callable[[VaultRequest], bool],
        wrap: Wrap | None = None,
        counts: Counts = _count_nothing,
        hashed: Hashed = no_hash,
    ) -> None:
        """``hashed`` makes what records have of tokens."""
        self.backends = dict(backends)
        self._access = access
        self._audit = audit
        self._is_operator = is_operator
        self._wrap = wrap
        self._counts = counts
        self._hashed = hashed

    async def answer(self, request: VaultRequest) -> tuple[Answer, Mapping[str, Any] | None]:
        """What is answered, and how it is wrapped, if it is.

        Raises: VST5205 (no such path), VST5300, VST5206 (refused), VST8100 (no record), and what the engine raises.
        """
        began = time.perf_counter()
        operation = await self._known(request)  # 1
        decision = await self._decide(request, operation)  # 2
        note = _Note(request, operation, decision, began, of_request(request, self._hashed))
        if not decision.allowed:  # 3
            error = _refusal(request, operation, decision)
            await self._record(note, "denied", code=error.code.code)
            raise error
        if operation.changes and operation.recorded:  # 4
            await self._audit.record([note.event("requested")])
        try:
            answer, wrapped = await self._done(request, operation)  # 5
        except VestibuleError as error:
            await self._record(note, "error", code=error.code.code)  # 6
            raise
        except Exception as error:
            _log.exception("request %s failed", request.request_id)
            await self._record(note, "error", code=INTERNAL.code)
            raise INTERNAL.error("the request failed") from error
        issued = of_answer(answer, wrapped, self._hashed)
        await self._record(note, "ok", **answer.detail, **issued)  # 6
        return answer, wrapped

    async def may(self, request: VaultRequest) -> bool:
        """Whether a request would be let through; nothing happens.  Raises: VST5205, and what the engine says of it."""
        return (await self._decide(request, self._operation(request))).allowed

    async def _known(self, request: VaultRequest) -> Operation:
        """What is asked for; what makes no sense is on record, too."""
        try:
            return self._operation(request)
        except VestibuleError as error:
            await self._audit.record([_senseless(request, error, of_request(request, self._hashed))])
            raise

    def _operation(self, request: VaultRequest) -> Operation:
        first, _, rest = request.path.partition("/")
        below = f"{first}/{rest.partition('/')[0]}" if first == "sys" else first
        backend = self.backends.get(below) or self.backends.get(first)
        operation = None if backend is None else backend.operation(request)
        if operation is None:
            raise NO_SUCH_PATH.error(f"no handler for {request.method} {request.path}")
        return operation

    async def _decide(self, request: VaultRequest, operation: Operation) -> AccessDecision:
        caller, verb = request.caller.spiffe_id, operation.verb
        if request.caller.via == OPERATOR:
            return AccessDecision(allowed=True, rule=_LOCAL)
        if operation.open:
            return AccessDecision(allowed=True, rule=_OPEN)
        if (owned := operation.owned) is not None and await owned.owner() == caller:
            if owned.verb is None:
                return AccessDecision(allowed=True, rule=_OWNER)
            return self._access.decide(caller, owned.verb, operation.resource)
        if operation.operators:
            return AccessDecision(allowed=self._is_operator(request), rule=_OPERATORS)
        decision = self._access.decide(caller, verb, operation.resource)
        if operation.or_operators and decision.rule is None and self._is_operator(request):
            return AccessDecision(allowed=True, rule=_OPERATORS)
        return decision

    async def _done(
        self, request: VaultRequest, operation: Operation
    ) -> tuple[Answer, Mapping[str, Any] | None]:
        if request.wrap_ttl is not None and self._wrap is None:
            # An answer in clear is not what was asked for.
            raise BAD_REQUEST.error("answers cannot be wrapped here")
        answer = await operation.run()
        if operation.waits:
            await self._check_again(request, operation)
        if request.wrap_ttl is None or self._wrap is None or not _is_wrapped(operation, answer):
            return answer, None
        told = envelope(answer, request.request_id) if answer.top is None else answer.top
        return answer, await self._wrap(told, request, request.wrap_ttl)

    async def _check_again(self, request: VaultRequest, operation: Operation) -> None:
        if request.caller_now is not None:
            await request.caller_now()
        if not (decision := await self._decide(request, operation)).allowed:
            raise _refusal(request, operation, decision)

    async def _record(self, note: _Note, outcome: str, **details: Detail) -> None:
        if note.operation.recorded:
            await self._audit.record([note.event(outcome, **details)])
        self._counts(note.operation.verb.value, outcome, time.perf_counter() - note.began)


class _Note:
    """What is recorded of a request, before and after; never what is secret in it."""

    __slots__ = ("_fixed", "began", "operation", "request")

    def __init__(
        self,
        request: VaultRequest,
        operation: Operation,
        decision: AccessDecision,
        began: float,
        hashes: Mapping[str, str],
    ) -> None:
        self.request = request
        self.operation = operation
        self.began = began
        caller = request.caller
        fixed: dict[str, Detail] = {"request_id": request.request_id, "via": caller.via}
        fixed |= hashes
        fixed |= operation.detail
        if decision.rule is not None:
            fixed["rule"] = decision.rule
        if decision.commit:
            fixed["commit"] = decision.commit
        if decision.shadow is not None:
            fixed["shadow"] = decision.shadow
        if caller.accessor:
            fixed["accessor"] = caller.accessor
        self._fixed = fixed

    def event(self, outcome: str, **details: Detail) -> AuditEvent:
        took = round((time.perf_counter() - self.began) * 1e6)
        return AuditEvent(
            actor=self.request.caller.name,
            action=f"secret.{self.operation.verb.value}",
            subject=self.operation.resource,
            outcome=outcome,
            details={**self._fixed, **details, "took_us": took},
        )


def _is_wrapped(operation: Operation, answer: Answer) -> bool:
    """Whether there is anything to wrap.  Probes are answered as they are, and what is wrapped already stays so."""
    if answer.top is not None:
        return operation.recorded and not answer.top.get("wrap_info")
    return answer.data is not None or answer.auth is not None


def _senseless(request: VaultRequest, error: VestibuleError, hashes: Mapping[str, str]) -> AuditEvent:
    return AuditEvent(
        actor=request.caller.name,
        action="secret.request",
        subject=request.path,
        outcome="refused",
        details={
            "request_id": request.request_id,
            "via": request.caller.via,
            "method": request.method,
            "code": error.code.code,
            **hashes,
        },
    )


def _refusal(request: VaultRequest, operation: Operation, decision: AccessDecision) -> VestibuleError:
    what = f"{request.caller.name} may not {operation.verb.value} {operation.resource}"
    code: ErrorCode = ACCESS_DENIED
    if operation.operators and decision.rule == _OPERATORS:
        code, why = OPERATORS_ONLY, "that is for administrators of the server"
    elif decision.rule is not None:
        why = f"rule {decision.rule} forbids it"
    else:
        why = "no rule allows it"
    commit = f", commit {decision.commit[:12]}" if decision.commit else ""
    return code.error(f"{what}: {why} (request {request.request_id}{commit})")


Handler = Callable[[VaultRequest], Awaitable[tuple[Answer, Mapping[str, Any] | None]]]


def operators_of(is_administrator: Callable[[SpiffeId], bool]) -> Callable[[VaultRequest], bool]:
    """Administrators are those whom the server knows as such, by their certificates: a token can be stolen."""
    return lambda request: request.caller.via == CERTIFICATE and is_administrator(request.caller.spiffe_id)
