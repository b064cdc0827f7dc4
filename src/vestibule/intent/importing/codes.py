"""What an importer says of what it read (009n)."""

from vestibule.errors import ErrorCode, Fault, Kind, define


def _import(code: str, name: str, *, meaning: str, advice: str) -> ErrorCode:
    return define(code, name, Kind.INVALID, Fault.OPERATOR, meaning=meaning, advice=advice)


NOT_CARRIED = _import(
    "VST0090",
    "not-carried-over",
    meaning="A document or a field has no counterpart in the intent language, or none that is certain to mean the "
    "same. It was left out; nobody gains a call by that.",
    advice="Look for what you need of it in docs/intent.md, and write it by hand.",
)
RULE_DROPPED = _import(
    "VST0091",
    "rule-dropped",
    meaning="An authorization rule has a part that cannot be expressed, or stands beside a policy that denies some of "
    "what it allows. It was left out whole: what it allowed is denied.",
    advice="Write the rule by hand in the service's `allow`, as narrow as it is meant.",
)
NARROWED = _import(
    "VST0092",
    "narrower",
    meaning="What was imported takes in less than the document did.",
    advice="Check that nothing is missing that is needed; add it by hand.",
)
ASSUMED = _import(
    "VST0093",
    "assumed",
    meaning="The document does not say something that the intent must say; a likely value was taken.",
    advice="Check the value that was taken.",
)
UNREADABLE_DOCUMENT = _import(
    "VST0094",
    "unreadable-document",
    meaning="A document cannot be read. It might have denied something, so nothing was imported.",
    advice="Mend the document, or take it out of the files; `kubectl get -o yaml` writes what can be read.",
)
NOTHING_OVERWRITTEN = _import(
    "VST0095",
    "nothing-overwritten",
    meaning="The directory for the result cannot be written, or holds files that would be overwritten.",
    advice="Name an empty or new directory with --out.",
)
