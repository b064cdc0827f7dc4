"""Why an identity may, or may not, do something with a secret; who may, and what one may."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vestibule.cli.codes import USAGE
from vestibule.cli.group_explanations import Words, headline, lines, why
from vestibule.cli.intent_places import Found
from vestibule.cli.output import console
from vestibule.intent import Intent
from vestibule.intent.access_changes import callers_of, paths_of, verbs_of
from vestibule.intent.policy_cases import caller_of
from vestibule.intent.problems import nearest
from vestibule.intent.secret_groups import VERBS
from vestibule.intent.secret_paths import logical
from vestibule.intent.secret_policies import secret_policy
from vestibule.policy import Call, Engine, Rule, is_normal
from vestibule.policy.differences import Permissions
from vestibule.policy.explaining import Explanation, Part, explain


def logical_path(text: str) -> str:
    """``secret/payments/db``, also for ``payments/db``: what begins with no mount is below ``secret/``.

    Raises: VST9100.
    """
    path = logical(text)
    if not path.partition("/")[2] or not is_normal(f"/{path}"):
        raise USAGE.error(
            f"{text[:100]!r} is no path of a secret", advice="Write it plainly, as secret/payments/db."
        )
    return path


def verb_of(text: str) -> str:
    """A verb as rules write it.  Raises: VST9100."""
    if (verb := text.lower()) in VERBS:
        return verb
    close = nearest(verb, VERBS)
    raise USAGE.error(
        f"{text[:40]!r} is nothing that can be done with a secret",
        advice=f"Did you mean {close!r}?" if close else f"Use {', '.join(VERBS)}.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The answer about one identity, one verb, one path."""

    found: Found
    caller: str
    call: Call
    path: str
    explanation: Explanation

    @property
    def allowed(self) -> bool:
        """Whether it may be done."""
        return self.explanation.decision.allowed


def explained(found: Found, caller: str, path: str, verb: str, at: datetime) -> Told:
    """Decide, and say why.  Raises: VST0040, VST1400, VST9100."""
    intent, path = found.held, logical_path(path)
    call = Call(caller=caller_of(caller, intent), port="", method=verb_of(verb), path=f"/{path}", time=at)
    return Told(
        found=found,
        caller=caller,
        call=call,
        path=path,
        explanation=explain(secret_policy(intent), call),
    )


# ------------------------------------------------------------------------------------------ an explanation

_WORDS: Final = Words(
    service="secret manager", unmatched="denies it (VST5300): no rule allows it", parts={Part.METHOD: "verb"}
)


def document(told: Told) -> dict[str, Any]:
    """The answer as the envelope carries it."""
    return {
        "caller": {"name": told.caller, "spiffe_id": str(told.call.caller)},
        "secret": told.path,
        "verb": told.call.method,
        "time": told.call.time.isoformat() if told.call.time else None,
        "intent": told.found.version,
        "allowed": told.allowed,
        **why(told.found, told.explanation, _WORDS),
    }


def show(told: Told) -> None:
    """For people at a terminal."""
    said = f"{told.caller} → {told.path} {told.call.method}"
    headline(said, told.found, allowed=told.allowed)
    for line in lines(told.found, told.explanation, _WORDS):
        console.print(f"  {line}")


# ------------------------------------------------------------------------------------- who may, what one may


def who_can(found: Found, path: str, verb: str, now: datetime) -> list[dict[str, Any]]:
    """Everybody whom the rules can tell apart and who may do it now, with the rule."""
    intent, call_path = found.held, f"/{logical_path(path)}"
    policy = secret_policy(intent)
    engine = Engine(policy)
    rules = {rule.name: rule for rule in (*policy.deny, *policy.allow)}
    rows = []
    for each in callers_of(intent, (*policy.deny, *policy.allow)):
        assert each.after is not None
        call = Call(caller=each.after, port="", method=verb_of(verb), path=call_path, time=now)
        decision = engine.decide(call)
        if decision.allowed and decision.rule is not None:
            rule = rules[decision.rule]
            rows.append(
                {
                    "who": each.name,
                    "spiffe_id": str(each.after) if _is_one(intent, each.name) else None,
                    "rule": rule.name,
                    "where": found.where(rule.where),
                    "until": _until(rule, call),
                    "condition": rule.when.source if rule.when else None,
                }
            )
    return rows


def what_can(found: Found, identity: str, now: datetime) -> list[dict[str, Any]]:
    """All that an identity may do with secrets, exactly, in as few rows as it takes."""
    intent = found.held
    policy = secret_policy(intent)
    caller = caller_of(identity, intent)
    rules = {rule.name: rule for rule in policy.allow}
    lasting = (rule for rule in (*policy.deny, *policy.allow) if rule.expires is None or now < rule.expires)
    granted = Permissions(lasting).beyond(Permissions(()), None, caller)
    return [
        {
            "may": list(verbs_of(each)),
            "paths": paths_of(each),
            "rules": [
                {"name": name, "where": found.where(rules[name].where)}
                for name in each.rules
                if name in rules
            ],
        }
        for each in granted
    ]


def _is_one(intent: Intent, name: str) -> bool:
    """Whether a row is about one identity, and not about all of a kind."""
    return (
        name in intent.identities
        or name.removeprefix("gateway ") in intent.gateways
        or (name.startswith("spiffe://") and "*" not in name)
    )


def _until(rule: Rule, call: Call) -> str | None:
    """When it ends for this caller, by the rule or by the membership."""
    named = [match.until for match in rule.callers if match.matches(call.caller)]
    member = None if None in named or not named else max(each for each in named if each is not None)
    ends = [each for each in (rule.expires, member) if each is not None]
    return min(ends).isoformat() if ends else None
