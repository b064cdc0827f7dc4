"""Registration entries as people write them, in options and in files, and as the server's API wants them.

One form for everything: options, ``--data`` files, ``entry export`` and ``--output json`` have the same names.  A file
may be SPIRE's, too: ``{"entries": [{"spiffe_id": …, "selectors": [{"type": "unix", "value": "uid:0"}], …}]}``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.server_calls import from_wire, instant, to_wire
from vestibule.errors import VestibuleError, Where
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.spiffe.templates import PathTemplate, variables_of
from vestibule.wire.gen.spire import types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import entries_pb2 as wire

MAX_FILE: Final = 16 * 1024 * 1024
_SCHEME: Final = "spiffe://"
_LISTS: Final = frozenset({"selectors", "federates_with", "dns_names"})
_FLAGS: Final = frozenset(
    {"admin", "downstream", "store_svid", "disable_x509_svid_prefetch", "jwt_svid_include_jti"}
)
_SECONDS: Final = frozenset({"x509_svid_ttl", "jwt_svid_ttl"})
_OTHER: Final = frozenset(
    {"id", "entry_id", "spiffe_id", "parent_id", "hint", "expires_at", "entry_expiry", "expires_in"}
    | {"labels", "jwt_claims", "max_identities"}
)
_TOLD: Final = frozenset(
    {"revision", "revision_number", "created_at", "created", "template_id", "ttl", "warnings"}
)
"""What answers hold and requests need not: taken, and passed over, so that an answer can be sent back."""
NAMES: Final = _LISTS | _FLAGS | _SECONDS | _OTHER


def document(registered: wire.RegisteredEntry) -> dict[str, Any]:
    """An entry as the envelope carries it; TTLs in seconds, ``None`` for the server's default."""
    entry, extras = registered.entry, registered.extras
    return {
        "id": entry.id,
        "spiffe_id": _spiffe_id(entry, extras),
        "parent_id": from_wire(entry.parent_id),
        "selectors": [f"{each.type}:{each.value}" for each in entry.selectors],
        "x509_svid_ttl": entry.x509_svid_ttl or None,
        "jwt_svid_ttl": entry.jwt_svid_ttl or None,
        "federates_with": list(entry.federates_with),
        "dns_names": [*entry.dns_names, *extras.dns_templates],
        "admin": entry.admin,
        "downstream": entry.downstream,
        "hint": entry.hint or None,
        "revision": entry.revision_number,
        "created_at": instant(entry.created_at),
        "expires_at": instant(entry.expires_at),
        "store_svid": entry.store_svid,
        "disable_x509_svid_prefetch": entry.additional_attributes.disable_x509_svid_prefetch,
        "jwt_svid_include_jti": entry.additional_attributes.jwt_svid_include_jti,
        "labels": dict(extras.labels),
        "jwt_claims": json.loads(extras.jwt_claims) if extras.jwt_claims else {},
        "max_identities": extras.max_identities or None,
        "template_id": extras.template_id or None,
    }


def exported(registered: wire.RegisteredEntry) -> dict[str, Any]:
    """An entry as a file for ``--data`` holds it: what was said of it, and nothing that was not."""
    found = document(registered)
    return {
        "entry_id" if name == "id" else name: value
        for name, value in found.items()
        if name not in _TOLD and value not in (None, "", False, [], {})
    }


def registered(document: Mapping[str, Any]) -> tuple[wire.RegisteredEntry, tuple[str, ...]]:
    """The message of a document, and the names of the fields that it sets.

    Raises: VST9100 (a name or value that entries cannot have), VST1400, VST1401, VST1404.
    """
    _check_names(document)
    given = {name: value for name, value in document.items() if name not in _TOLD and value is not None}
    made = wire.RegisteredEntry(entry=types_pb2.Entry(id=_text(given, "entry_id") or _text(given, "id")))
    fields: list[str] = []
    for name in given:
        if name not in ("id", "entry_id"):
            fields += _SETTERS.get(name, _set_plain)(made, name, given[name])
    if made.extras.path_template == "" and _has_variables(made):
        # Claims or DNS names with variables: a template whose path happens to have none.
        made.extras.path_template = made.entry.spiffe_id.path
        fields.append("path_template")
    return made, tuple(dict.fromkeys(fields))


def documents(path: str) -> list[dict[str, Any]]:
    """The documents in a JSON or YAML file, ``-`` for standard input.  Raises: VST9100, VST9101 (YAML)."""
    text = _read(path)
    try:
        found = json.loads(text) if text.lstrip()[:1] in ("{", "[") else _yaml(path, text)
    except ValueError as error:
        raise USAGE.error(f"the file is not JSON: {error}", where=Where(file=path)) from error
    if isinstance(found, dict) and "schema" in found:
        found = found.get("data")  # an answer of ours, such as that of `entry show --output json`
    entries = found.get("entries") if isinstance(found, dict) else found
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise USAGE.error("the file holds no list of entries", where=Where(file=path))
    if not entries:
        raise USAGE.error("the file holds no entries", where=Where(file=path))
    return entries


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read(MAX_FILE)
        file = Path(path)
        if file.stat().st_size > MAX_FILE:
            raise USAGE.error(f"the file is larger than {MAX_FILE} bytes", where=Where(file=path))
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise USAGE.error(f"the file cannot be read: {error}", where=Where(file=path)) from error


def _yaml(path: str, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError) as error:
        raise USAGE.error(f"the file is neither JSON nor YAML: {error}", where=Where(file=path)) from error


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """``NAME=VALUE``s of a repeatable option.  Raises: VST9100."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or name in found:
            raise USAGE.error(f"{option} {text[:80]!r} is not NAME=VALUE, or its name stands twice")
        found[name] = value
    return found


def claims(texts: Sequence[str]) -> dict[str, Any]:
    """Claims of ``--claim NAME=VALUE``: a value that is JSON is that, any other is a text.  Raises: VST9100."""
    found: dict[str, Any] = {}
    for name, text in pairs(texts, "--claim").items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _check_names(document: Mapping[str, Any]) -> None:
    for name in document:
        if name not in NAMES and name not in _TOLD:
            near = get_close_matches(str(name), NAMES, 1)
            advice = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(sorted(NAMES))}."
            raise USAGE.error(f"entries have no {str(name)[:80]!r}", advice=advice)


def _spiffe_id(entry: types_pb2.Entry, extras: wire.EntryExtras) -> str:
    if not extras.path_template:
        return from_wire(entry.spiffe_id)
    return f"{TrustDomain.parse(entry.spiffe_id.trust_domain).id}{extras.path_template}"


def _has_variables(made: wire.RegisteredEntry) -> bool:
    return bool(made.extras.dns_templates) or (
        bool(made.extras.jwt_claims) and any(map(_is_template, _texts(json.loads(made.extras.jwt_claims))))
    )


def _texts(value: Any) -> Iterator[str]:
    for each in value.values():
        for text in each if isinstance(each, list) else [each]:
            if isinstance(text, str):
                yield text


def _is_template(text: str) -> bool:
    return "{" in text and bool(variables_of(text))


# ------------------------------------------------------------------------------------------- one setter a field


def _set_spiffe_id(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    text = str(value)
    if "{" not in text:
        made.entry.spiffe_id.CopyFrom(to_wire(SpiffeId.parse(text)))
        return ["spiffe_id"]
    if text[: len(_SCHEME)].lower() != _SCHEME:
        raise USAGE.error(f"{text[:80]!r} does not start with {_SCHEME}")
    domain, slash, path = text[len(_SCHEME) :].partition("/")
    template = PathTemplate.parse(slash + path)
    made.entry.spiffe_id.CopyFrom(to_wire(SpiffeId.of(TrustDomain.parse(domain), template.prefix)))
    made.extras.path_template = template.text
    return ["spiffe_id", "path_template"]


def _set_parent_id(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    made.entry.parent_id.CopyFrom(to_wire(SpiffeId.parse(str(value))))
    return [name]


def _set_selectors(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    for each in _list(name, value):
        if isinstance(each, Mapping):
            made.entry.selectors.add(type=str(each.get("type", "")), value=str(each.get("value", "")))
        else:
            parsed = Selector.parse(str(each))
            made.entry.selectors.add(type=parsed.type, value=parsed.value)
    return [name]


def _set_dns_names(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    texts = [str(each) for each in _list(name, value)]
    made.entry.dns_names.extend(each for each in texts if "{" not in each)
    made.extras.dns_templates.extend(each for each in texts if "{" in each)
    return ["dns_names", "dns_templates"]


def _set_federates_with(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    made.entry.federates_with.extend(str(each) for each in _list(name, value))
    return [name]


def _set_seconds(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    number = value if isinstance(value, int) else int(parse_duration(str(value)).total_seconds())
    if isinstance(value, bool) or not 0 <= number < 2**31:
        raise USAGE.error(f"{name} {value!r} is not a time to live")
    setattr(made.entry, name, number)
    return [name]


def _set_end(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    made.entry.expires_at = _unix(name, value)
    return ["expires_at"]


def _unix(name: str, value: Any) -> int:
    if name == "expires_in":
        return int(time.time() + parse_duration(str(value)).total_seconds())
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise USAGE.error(f"{name} {value!r} is neither Unix seconds nor an instant") from error


def _set_flag(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    if not isinstance(value, bool):
        raise USAGE.error(f"{name} {value!r} is neither true nor false")
    if name in ("disable_x509_svid_prefetch", "jwt_svid_include_jti"):
        setattr(made.entry.additional_attributes, name, value)
        return ["additional_attributes"]
    setattr(made.entry, name, value)
    return [name]


def _set_labels(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        raise USAGE.error("labels are a mapping of names to texts")
    made.extras.labels.update({str(key): str(each) for key, each in value.items()})
    return [name]


def _set_claims(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        raise USAGE.error("jwt_claims are a mapping of names to values")
    try:
        made.extras.jwt_claims = json.dumps(value, ensure_ascii=False, allow_nan=False) if value else ""
    except (TypeError, ValueError) as error:
        raise USAGE.error(f"jwt_claims: {error}") from error
    return [name]


def _set_plain(made: wire.RegisteredEntry, name: str, value: Any) -> list[str]:
    if name == "max_identities":
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise USAGE.error(f"max_identities {value!r} is not a number")
        made.extras.max_identities = value
    else:
        made.entry.hint = str(value)
    return [name]


def _list(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise USAGE.error(f"{name} is not a list")
    return value


def _text(given: Mapping[str, Any], name: str) -> str:
    return str(given.get(name, ""))


_SETTERS: Final = {
    "spiffe_id": _set_spiffe_id,
    "parent_id": _set_parent_id,
    "selectors": _set_selectors,
    "dns_names": _set_dns_names,
    "federates_with": _set_federates_with,
    "labels": _set_labels,
    "jwt_claims": _set_claims,
    **dict.fromkeys(_SECONDS, _set_seconds),
    **dict.fromkeys(_FLAGS, _set_flag),
    **dict.fromkeys(("expires_at", "entry_expiry", "expires_in"), _set_end),
}


def placed(error: VestibuleError, path: str, number: int) -> VestibuleError:
    """The error of one of many entries, with its place."""
    return VestibuleError(
        error.code, f"entry {number}: {error.message}", advice=error.advice, where=Where(file=path)
    )
