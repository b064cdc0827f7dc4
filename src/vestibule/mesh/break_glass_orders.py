"""What somebody who opens break-glass asks for, held against the intent in force."""

from __future__ import annotations

import pwd
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vestibule.envoy.world import rule_of
from vestibule.errors import VestibuleError
from vestibule.intent.model import Intent, Service
from vestibule.intent.resolving import out_of_reach
from vestibule.intent.words import METHODS, RoleCaller, ServiceCaller, caller
from vestibule.mesh.codes import APPROVED_BY_ITSELF, EMERGENCY_REFUSED, EMERGENCY_UNKNOWN_NAME
from vestibule.policy import IdentityMatch, Mode, PathPattern, Rule
from vestibule.records import LONGEST_EMERGENCY, Emergency

LONGEST_TEXT: Final = 500
SHORTEST: Final = timedelta(seconds=1)
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_UID: Final = re.compile(r"uid=(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """As the operator wrote it.  ``caller`` is a service, ``role:NAME``, a SPIFFE ID or one and ``/**``."""

    opener: str
    caller: str
    service: str
    port: str = ""
    method: str = ""
    path: str = ""
    reason: str
    ticket: str
    approver: str
    lasts: timedelta


def emergency_of(order: Order, intent: Intent, now: datetime) -> Emergency:
    """The permission that an order asks for.  Raises: VST4090, VST4091, VST4092, VST1400, VST4010, VST4011."""
    _check_words(order)
    service = intent.services.get(order.service)
    if service is None:
        raise EMERGENCY_UNKNOWN_NAME.error(f"there is no service {order.service[:80]!r}")
    port = _port_of(order, service)
    # A whole second, as everybody is told it: what ends at :09 must not last until :09.9.
    expires = (now + order.lasts).replace(microsecond=0)
    return Emergency(
        id="".join(secrets.choice(_ALPHABET) for _ in range(8)),
        callers=tuple(sorted({str(each) for each in _callers(order.caller, intent, expires)})),
        service=service.name,
        port=port,
        method=order.method,
        path=str(PathPattern.parse(order.path)) if order.path else "",
        reason=order.reason,
        ticket=order.ticket,
        approver=order.approver,
        opener=order.opener,
        opened_at=now,
        expires_at=expires,
    )


def warnings_of(emergency: Emergency, intent: Intent) -> Iterator[str]:
    """What the opener should know: denials go before break-glass, and what rules allow needs none."""
    service, rule = intent.services[emergency.service], rule_of(emergency)
    for each in service.deny:
        if each.mode is Mode.ENFORCE and _may_meet(each, rule):
            yield f"{each.name} denies some or all of this: denials go before break-glass"
    for each in service.allow:
        if (
            each.mode is Mode.ENFORCE
            and (each.when, each.token, each.mcp) == (None, None, None)
            and _allows_all(each, rule)
        ):
            yield f"{each.name} allows all of this already: the rule is used, and break-glass is not"


def _allows_all(allow: Rule, emergency: Rule) -> bool:
    return allow.expires is None and allow.covers(emergency)


def _may_meet(deny: Rule, emergency: Rule) -> bool:
    ports = None in (deny.port, emergency.port) or deny.port == emergency.port
    methods = not deny.methods or not emergency.methods or bool(deny.methods & emergency.methods)
    callers = deny.anyone or any(
        mine.covers(theirs) or theirs.covers(mine) for mine in deny.callers for theirs in emergency.callers
    )
    paths = not deny.paths or not emergency.paths or _paths_meet(deny, emergency)
    return ports and methods and callers and paths


def _paths_meet(deny: Rule, emergency: Rule) -> bool:
    """Whether they may: patterns with placeholders are taken to meet everything."""
    for mine in deny.paths:
        for theirs in emergency.paths:
            if mine.covers(theirs) or theirs.covers(mine) or not (mine.is_literal and theirs.is_literal):
                return True
    return False


def _check_words(order: Order) -> None:
    for name in ("reason", "ticket", "approver"):
        text: str = getattr(order, name)
        if not text.strip() or len(text) > LONGEST_TEXT or not text.isprintable():
            raise EMERGENCY_REFUSED.error(
                f"the {name} is to be one line of at most {LONGEST_TEXT} characters"
            )
    if not SHORTEST <= order.lasts <= LONGEST_EMERGENCY:
        raise EMERGENCY_REFUSED.error("break-glass is for 1s to 4h")
    if order.method and order.method not in METHODS:
        raise EMERGENCY_REFUSED.error(f"{order.method[:40]!r} is not a method that rules know")
    if _same_person(order.approver, order.opener):
        raise APPROVED_BY_ITSELF.error(f"{order.opener} cannot approve what {order.opener} opens")


def _same_person(approver: str, opener: str) -> bool:
    """Whether the approver is known to be the opener, under any of the opener's names."""
    return approver.strip().casefold() in {each.casefold() for each in _names_of(opener)}


def _names_of(opener: str) -> Iterator[str]:
    yield opener
    if "://" in opener:
        yield opener.rpartition("/")[2]
    elif match := _UID.search(opener):
        yield from (match[1], match[0], f"local:{match[0]}")
        with suppress(KeyError):
            yield pwd.getpwuid(int(match[1])).pw_name


def _port_of(order: Order, service: Service) -> str:
    asks_http = bool(order.method or order.path)
    if order.port:
        port = service.ports.get(order.port)
        if port is None:
            raise EMERGENCY_UNKNOWN_NAME.error(f"{service.name} has no port {order.port[:80]!r}")
        if asks_http and not port.protocol.is_http:
            raise EMERGENCY_REFUSED.error(f"{service.name}/{port.name} speaks TCP, without methods and paths")
        return port.name
    if asks_http and not any(each.protocol.is_http for each in service.ports.values()):
        raise EMERGENCY_REFUSED.error(f"{service.name} speaks TCP, without methods and paths")
    return next(iter(service.ports)) if len(service.ports) == 1 else ""


def _callers(text: str, intent: Intent, expires: datetime) -> tuple[IdentityMatch, ...]:
    try:
        found = caller(text)
    except VestibuleError as error:
        raise EMERGENCY_REFUSED.error(f"--from: {error.message}", advice=error.advice) from error
    if isinstance(found, ServiceCaller):
        known = intent.services.get(found.name) or intent.gateways.get(found.name)
        if known is None:
            raise EMERGENCY_UNKNOWN_NAME.error(f"there is no service {found.name!r}")
        return (IdentityMatch(id=known.spiffe_id),)
    if isinstance(found, RoleCaller):
        if found.name not in intent.mesh.roles:
            raise EMERGENCY_UNKNOWN_NAME.error(f"there is no role {found.name!r} in mesh.yaml")
        # Whose membership ends before the permission does has to be named.
        members = tuple(each for each in intent.mesh.roles[found.name] if each.holds(expires))
        if not members:
            raise EMERGENCY_REFUSED.error(f"nobody is in the role {found.name!r} for so long")
        return members
    if not isinstance(found, IdentityMatch):
        raise EMERGENCY_REFUSED.error("break-glass is for callers that are named")
    if why := out_of_reach(found, intent.mesh.trust_domain):
        raise EMERGENCY_REFUSED.error(f"{found} {why}")
    return (found,)
