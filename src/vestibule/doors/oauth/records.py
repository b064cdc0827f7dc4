"""What is put on record of each request: who asked for which token, what came of it, and why; never a token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.doors.oauth.forms import Form
from vestibule.doors.oauth.replies import error_word
from vestibule.errors import VestibuleError
from vestibule.tokens.codes import TokenRefusedError
from vestibule.tokens.ports import Client, Minted

Hashed = Callable[[str], str]
"""The keyed hash of a token; empty while that cannot be told."""

NOBODY: Final = "unknown"
REQUEST: Final = "request"
"""What is asked for, where that is not known."""
_LONGEST: Final = 512
_GIVEN: Final = ("subject_token", "assertion", "token", "client_assertion")


class Records:
    """Writes them.  Without a record there is no answer but that error."""

    def __init__(self, audit: Audit, hashed: Hashed) -> None:
        self._audit = audit
        self._hashed = hashed

    async def minted(self, verb: str, client: Client, minted: Minted, form: Form, request_id: str) -> None:
        """A token that is about to be handed out.  Raises: VST8100."""
        details: dict[str, Detail] = {
            "request_id": request_id,
            "via": client.proof.value,
            "scopes": list(minted.scopes),
            "for": minted.subject,
            "jti": minted.token_id,
            "txn": minted.transaction,
            "expires": minted.expires.isoformat(),
        }
        if minted.actors:
            details["actors"] = list(minted.actors)
        details |= _why(minted.rule, minted.commit)
        if minted.shadow is not None:
            details["shadow"] = minted.shadow
        details |= self._given(form)
        await self._write(verb, str(client.spiffe_id), " ".join(minted.audience), "ok", details)

    async def done(
        self, verb: str, client: Client, subject: str, form: Form, request_id: str, **more: Detail
    ) -> None:
        """Something else was done.  Raises: VST8100."""
        known = {"request_id": request_id, "via": client.proof.value, **more, **self._given(form)}
        details = {name: value for name, value in known.items() if value != ""}
        await self._write(verb, str(client.spiffe_id), subject, "ok", details)

    async def refused(
        self, verb: str, client: Client | None, form: Form | None, request_id: str, error: VestibuleError
    ) -> None:
        """A request that came to nothing.  Raises: VST8100."""
        details: dict[str, Detail] = {
            "request_id": request_id,
            "code": error.code.code,
            "error": error_word(error),
            "why": error.message[:_LONGEST],
        }
        if client is not None:
            details["via"] = client.proof.value
        if isinstance(error, TokenRefusedError):
            details |= _why(error.rule, error.commit)
            details |= _said("for", error.subject) | _said("txn", error.transaction)
        details |= self._given(form)
        actor = NOBODY if client is None else str(client.spiffe_id)
        await self._write(verb, actor, _asked_for(form), "refused", details)

    def _given(self, form: Form | None) -> dict[str, Detail]:
        """Keyed hashes of the tokens that were sent, by which one that was found is found again."""
        found: dict[str, Detail] = {}
        if form is not None:
            for name in _GIVEN:
                if text := form.get(name):
                    found |= _said(f"{name}_hmac", self._hashed(text))
        return found

    async def _write(
        self, verb: str, actor: str, subject: str, outcome: str, details: Mapping[str, Detail]
    ) -> None:
        event = AuditEvent(
            actor=actor, action=f"token.{verb}", subject=subject[:_LONGEST], outcome=outcome, details=details
        )
        await self._audit.record([event])


def _why(rule: str | None, commit: str) -> dict[str, Detail]:
    return ({} if rule is None else {"rule": rule}) | _said("commit", commit)


def _said(name: str, text: str) -> dict[str, Detail]:
    return {name: text[:_LONGEST]} if text else {}


def _asked_for(form: Form | None) -> str:
    if form is None:
        return ""
    return " ".join((*form.targets("audience"), *form.targets("resource")))
