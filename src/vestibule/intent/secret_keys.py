"""The keys of ``secrets/NAME.yaml``."""

from __future__ import annotations

import re
from typing import Final

from vestibule.intent import codes, rule_keys, service_keys, words
from vestibule.intent.problems import nearest
from vestibule.intent.secret_groups import VERBS
from vestibule.intent.secret_paths import MOUNTS, SecretPath
from vestibule.intent.shapes import Key, Many, Record, Text
from vestibule.intent.terms import SERVICE_NAME, pattern


def _verb(text: str) -> str:
    if text in VERBS:
        return text
    close = nearest(text, VERBS)
    raise codes.MALFORMED_VALUE.error(
        f"{words.shown(text)} is nothing that can be done with a secret",
        advice=f"Did you mean {close!r}?" if close else f"Use {', '.join(VERBS)}.",
    )


_VERB: Final = Text(_verb, {"enum": list(VERBS)})
_PATH: Final = Text(
    SecretPath.parse,
    pattern(rf"({'|'.join(map(re.escape, MOUNTS))})(/[^%;?#\\]*)?"),
    "a path such as secret/a/**",
)
SECRETS: Final = Key(
    "secrets",
    SERVICE_NAME,
    "The group's name, which is also its file's; its rules are NAME/ID.",
    required=True,
)
MAY: Final = Key(
    "may",
    Many(_VERB, "verb", least=1),
    "What may be done: read, write, list, rotate, or use (a key in transit/).",
    required=True,
)
NOT: Final = Key(MAY.name, MAY.shape, "What may not be done; nothing at all, when left out.")
SECRET_PATHS: Final = Key(
    "paths",
    Many(_PATH, "path", least=1, most=500),
    "With which secrets: secret/a/b is one, {name} or * any one segment, secret/a/** is secret/a and all below it.",
    required=True,
)
SECRET_FROM: Final = Key(
    "from",
    rule_keys.Callers("a rule for secrets: from"),
    "Who: services, role:NAME, spiffe://… or spiffe://…/**; or the word anyone.",
    required=True,
)
SECRET_WHEN: Final = Key(
    "when", rule_keys.Expression(), "A condition in CEL on caller, environment and request.time."
)
_REST: Final = (SECRET_WHEN, rule_keys.MODE, rule_keys.EXPIRES, rule_keys.REASON)
SECRET_RULE: Final = Record("a rule for secrets", (rule_keys.RULE_ID, SECRET_FROM, MAY, SECRET_PATHS, *_REST))
SECRET_DENIAL: Final = Record(
    "a denial of secrets", (rule_keys.RULE_ID, SECRET_FROM, NOT, SECRET_PATHS, *_REST)
)
SECRET_ALLOW: Final = Key(
    "allow",
    Many(SECRET_RULE, "rule", distinct=False),
    "Who may do what.  What no rule allows is denied.",
)
SECRET_DENY: Final = Key(
    "deny",
    Many(SECRET_DENIAL, "rule", distinct=False),
    "Who may not, whatever is allowed in this file or any other.",
)
SECRETS_FILE: Final = Record("a group of secrets", (SECRETS, service_keys.OWNER, SECRET_ALLOW, SECRET_DENY))
