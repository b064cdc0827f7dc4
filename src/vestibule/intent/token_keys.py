"""The keys of ``tokens/NAME.yaml``."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from vestibule.intent import codes, rule_keys, service_keys, words
from vestibule.intent.problems import nearest
from vestibule.intent.shapes import Choice, Key, Many, Record, Text, Whole
from vestibule.intent.terms import AUDIENCE_TEXT, CALLER, NAME, SCOPE, SERVICE_NAME, pattern
from vestibule.intent.token_groups import DEFAULT_DEPTH, LEAST_LASTS, MOST_DEPTH, MOST_LASTS, VERBS


def _verb(text: str) -> str:
    if text in VERBS:
        return text
    close = nearest(text, VERBS)
    raise codes.MALFORMED_VALUE.error(
        f"{words.shown(text)} is no way to come by a token",
        advice=f"Did you mean {close!r}?" if close else f"Use {', '.join(VERBS)}.",
    )


def _life(text: str) -> timedelta:
    found = words.duration(text)
    if LEAST_LASTS <= found <= MOST_LASTS:
        return found
    raise codes.MALFORMED_VALUE.error(
        f"{words.shown(text)} is no life of a token",
        advice="Write a time from 1m to 15m: who needs a token for longer gets another one.",
    )


_VERB: Final = Text(_verb, {"enum": list(VERBS)})
_LIFE: Final = Text(_life, pattern(words.DURATION), "a time from 1m to 15m")

TOKENS: Final = Key(
    "tokens",
    SERVICE_NAME,
    "The group's name, which is also its file's; its rules are NAME/ID.",
    required=True,
)
AUDIENCES: Final = Key(
    "audiences",
    Many(AUDIENCE_TEXT, "audience", least=1, most=20),
    "For whom the tokens are, as their `aud` says it; each in one group only.",
    required=True,
)
FOR: Final = Key(
    "for",
    Many(CALLER, "caller", least=1),
    "Who may ask what such a token says, and whether it still counts.",
    default="the service of the group's name",
)
GROUP_SCOPES: Final = Key(
    "scopes", Many(SCOPE, "scope", most=100), "All scopes that there are for these audiences.", default="none"
)
DEPTH: Final = Key(
    "depth",
    Whole(1, MOST_DEPTH),
    "How many services may stand in a token as those who act for its subject.",
    default=str(DEFAULT_DEPTH),
)
TOKENS_FROM: Final = Key(
    "from",
    rule_keys.Callers("a rule for tokens: from"),
    "Who: services, role:NAME, spiffe://… or spiffe://…/**; or the word anyone.",
    required=True,
)
MAY: Final = Key(
    "may",
    Many(_VERB, "verb", least=1),
    "What may be done: mint a token of one's own; receive one in exchange; give one that is for these audiences in "
    "exchange; admit: get one for an outside issuer's.",
    required=True,
)
NOT: Final = Key(MAY.name, MAY.shape, "What may not be done; nothing at all, when left out.")
RULE_SCOPES: Final = Key(
    "scopes",
    Many(SCOPE, "scope"),
    "Which of the group's scopes; `[]` for tokens without any. To be said wherever the group has scopes; with exchange "
    "alone it is any, when left out.",
)
DENIED_SCOPES: Final = Key(
    "scopes", Many(SCOPE, "scope", least=1), "Which scopes; every token, when left out."
)
FROM_ISSUERS: Final = Key(
    "issuers",
    Many(NAME, "issuer", least=1),
    "Of admit: whose tokens are traded, by their names under `issuers` of mesh.yaml.",
)
DENIED_ISSUERS: Final = Key(
    "issuers", FROM_ISSUERS.shape, "Of admit: whose tokens; anybody's, when left out."
)
LASTS: Final = Key("lasts", _LIFE, "The longest that a token holds: from 1m to 15m.", default="10m")
BINDING: Final = Key(
    "binding",
    Choice.of([("identity", False), ("certificate", True)]),
    "To what a token is bound: to the SPIFFE ID of whoever got it, or also to its certificate.",
    default="identity",
)
MAY_ACT: Final = Key("may_act", CALLER, "Who may give such a token in exchange without a rule of its own.")
TOKENS_WHEN: Final = Key(
    "when",
    rule_keys.Expression(),
    "A condition in CEL on caller, environment, request.time and, but for mint, the token that is given: token.*.",
)
_REST: Final = (TOKENS_WHEN, rule_keys.MODE, rule_keys.EXPIRES, rule_keys.REASON)
TOKENS_RULE: Final = Record(
    "a rule for tokens",
    (rule_keys.RULE_ID, TOKENS_FROM, MAY, RULE_SCOPES, FROM_ISSUERS, LASTS, BINDING, MAY_ACT, *_REST),
)
TOKENS_DENIAL: Final = Record(
    "a denial of tokens", (rule_keys.RULE_ID, TOKENS_FROM, NOT, DENIED_SCOPES, DENIED_ISSUERS, *_REST)
)
TOKENS_ALLOW: Final = Key(
    "allow",
    Many(TOKENS_RULE, "rule", distinct=False),
    "Who may come by which token.  What no rule allows is denied.",
)
TOKENS_DENY: Final = Key(
    "deny", Many(TOKENS_DENIAL, "rule", distinct=False), "Who may not, whatever is allowed above."
)
TOKENS_FILE: Final = Record(
    "a group of tokens",
    (TOKENS, service_keys.OWNER, AUDIENCES, FOR, GROUP_SCOPES, DEPTH, TOKENS_ALLOW, TOKENS_DENY),
)
