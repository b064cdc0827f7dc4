"""The rules read plainly, one after the other, with nothing shared with the engine or the compiler.

The meaning is numbered as in docs/authorization.md.  Conditions come with a reading of their own (``conditions``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vestibule.policy import Call, Mode, PortPolicy, Rule, TokenDemand

NOT_NORMAL: Final = "vestibule/path-not-normal"

TOKEN_REFUSED: Final = "token refused"

Reading = Callable[[Call], bool]
"""What a condition says of a call.  KeyError, ValueError, TypeError and ArithmeticError are errors."""

_UNRESERVED: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_OTHERS: Final = "!$&'()*+,=:@/|^`{}\"<>[]"
_HEX: Final = "0123456789abcdefABCDEF"


@dataclass(frozen=True, slots=True)
class Answer:
    """``rule`` of a denial by default is empty."""

    allowed: bool
    rule: str


@dataclass(frozen=True, slots=True)
class Naive:
    """``readings`` are what conditions say, by their text."""

    policy: PortPolicy
    readings: Mapping[str, Reading]
    now: datetime

    def answer(self, call: Call, *, shadow: bool = False) -> Answer:
        """Enforced, or with the shadow rules counted as enforced."""
        path = (call.path or "").split("?", 1)[0]
        if not normal(path):  # 1
            return Answer(False, NOT_NORMAL)
        return self._by_rules(call, path, shadow)

    def of_connection(self, call: Call) -> Answer:
        """The same of a connection, which has no path."""
        return self._by_rules(call, "", shadow=False)

    def _by_rules(self, call: Call, path: str, shadow: bool) -> Answer:
        for rule in self._counting(self.policy.deny, shadow):  # 3
            if self._matches(rule, call, path, on_error=True):
                return Answer(False, rule.name)
        for rule in self._counting(self.policy.emergencies, shadow):  # 4
            if self._matches(rule, call, path, on_error=False):
                return Answer(True, rule.name)
        for rule in self._counting(self.policy.allow, shadow):  # 5
            if self._matches(rule, call, path, on_error=False):
                return Answer(True, rule.name)
        return Answer(False, "")  # 6

    def _counting(self, rules: Iterable[Rule], shadow: bool) -> Iterable[Rule]:
        for rule in rules:
            if rule.expires is not None and self.now >= rule.expires:
                continue
            if rule.mode is Mode.ENFORCE or shadow:
                yield rule

    def _matches(self, rule: Rule, call: Call, path: str, *, on_error: bool) -> bool:
        if not self._named(rule, str(call.caller)):
            return False
        if rule.methods and call.method not in rule.methods:
            return False
        if rule.paths and not any(fits(str(each), path) for each in rule.paths):
            return False
        try:
            return self._holds(rule, call)
        except (KeyError, ValueError, TypeError, ArithmeticError):
            return on_error

    def _named(self, rule: Rule, caller: str) -> bool:
        if rule.anyone:
            return True
        for each in rule.callers:
            if each.until is not None and self.now >= each.until:
                continue
            if caller == str(each.id) or (each.below and caller.startswith(str(each.id) + "/")):
                return True
        return False

    def _holds(self, rule: Rule, call: Call) -> bool:
        if rule.token is not None and not self._demanded(rule.token, call):
            return False
        return rule.when is None or self.readings[rule.when.source](call)

    def _demanded(self, wanted: TokenDemand, call: Call) -> bool:
        if wanted.issuer not in call.tokens:
            return False
        token = call.tokens[wanted.issuer]
        audience = token["aud"]
        if wanted.audience not in ([audience] if isinstance(audience, str) else audience):
            return False
        if any(token.get(name) != value for name, value in wanted.claims):
            return False
        granted = token.get("scope", "") if wanted.scopes else ""
        if isinstance(granted, str) and any(scope not in granted.split(" ") for scope in wanted.scopes):
            return False
        if wanted.bound:
            presenter = token["act"]["sub"] if "act" in token else token["client_id"]
            if not isinstance(presenter, str):
                raise TypeError
            if presenter != str(call.caller):
                return False
        if not isinstance(granted, str):
            raise TypeError
        return True


def fits(pattern: str, path: str) -> bool:
    """``/a/{x}/**``: segment by segment."""
    wanted = pattern.split("/")[1:]
    given = path.split("/")[1:]
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        if len(given) < len(wanted):
            return False
        given = given[: len(wanted)]
    if len(wanted) != len(given):
        return False
    for one, other in zip(wanted, given, strict=True):
        if one.startswith("{"):
            if not other:
                return False
        elif one != other:
            return False
    return True


def normal(path: str) -> bool:
    """Character by character."""
    if not path.startswith("/"):
        return False
    place = 0
    while place < len(path):
        if path[place] == "%":
            if len(path) < place + 3 or path[place + 1] not in _HEX or path[place + 2] not in _HEX:
                return False
            if chr(int(path[place + 1 : place + 3], 16)) in _UNRESERVED + "/\\\0":
                return False
            place += 3
        elif path[place] in _UNRESERVED + _OTHERS:
            place += 1
        else:
            return False
    segments = path.split("/")[1:]
    return not any(each in (".", "..") for each in segments) and "" not in segments[:-1]
