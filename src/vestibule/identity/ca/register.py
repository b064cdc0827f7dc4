"""What a root has signed and revoked, as its transcript tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from vestibule.identity.ca.codes import CA_UNUSABLE, UNKNOWN_INTERMEDIATE
from vestibule.pki.crls import REASONS, RevokedSerial
from vestibule.pki.transcripts import SignedStep
from vestibule.spiffe import TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a root signs: intermediates that live no longer than this, with no more signers below them."""

    max_lifetime: timedelta
    max_path_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """An intermediate that the root signed."""

    name: str
    serial: int
    key_id: str
    sha256: str
    not_before: datetime
    not_after: datetime
    path_length: int
    revoked: RevokedSerial | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """What the transcript comes to."""

    name: str
    trust_domain: TrustDomain
    keys: str
    policy: Policy
    issued: tuple[Issued, ...]
    crl_number: int
    steps: tuple[SignedStep, ...]

    @property
    def revoked(self) -> tuple[RevokedSerial, ...]:
        """Everything that is revoked, for the root's list."""
        return tuple(each.revoked for each in self.issued if each.revoked is not None)

    def find(self, name_or_serial: str) -> Issued:
        """An intermediate by its name or its serial number in hex.  Raises: VST1382."""
        for each in self.issued:
            if name_or_serial in (each.name, f"{each.serial:x}"):
                return each
        raise UNKNOWN_INTERMEDIATE.error(f"the root has signed nothing named {name_or_serial[:80]!r}")


def replayed(steps: Sequence[SignedStep]) -> Register:
    """The register that a root's transcript comes to.  Raises: VST1381."""
    try:
        first = steps[0].step.facts
        issued: dict[int, Issued] = {}
        number = 0
        for signed in steps:
            action, facts = signed.step.action, signed.step.facts
            if action == "sign":
                each = issued_in(signed)
                issued[each.serial] = each
            elif action == "revoke":
                entry = _revoked(signed)
                issued[entry.serial] = replace(issued[entry.serial], revoked=entry)
            elif action == "crl":
                number = int(facts["number"])
        return Register(
            name=first["name"],
            trust_domain=TrustDomain.parse(first["trust-domain"]),
            keys=first["keys"],
            policy=Policy(
                max_lifetime=timedelta(seconds=int(first["max-intermediate-seconds"])),
                max_path_length=int(first["max-path-length"]),
            ),
            issued=tuple(issued.values()),
            crl_number=number,
            steps=tuple(steps),
        )
    except (KeyError, ValueError) as error:
        raise CA_UNUSABLE.error("the transcript lacks what a root's steps tell") from error


def issued_in(signed: SignedStep) -> Issued:
    """The intermediate that a step tells of.  Raises: KeyError, ValueError."""
    facts = signed.step.facts
    return Issued(
        name=facts["name"],
        serial=int(facts["serial"], 16),
        key_id=facts["key-id"],
        sha256=facts["certificate-sha256"],
        not_before=datetime.fromisoformat(facts["not-before"]),
        not_after=datetime.fromisoformat(facts["not-after"]),
        path_length=int(facts["path-length"]),
    )


def _revoked(signed: SignedStep) -> RevokedSerial:
    facts = signed.step.facts
    if facts["reason"] not in REASONS:
        raise ValueError(facts["reason"])
    return RevokedSerial(
        serial=int(facts["serial"], 16),
        at=datetime.fromisoformat(facts["revoked-at"]),
        reason=facts["reason"],
    )
