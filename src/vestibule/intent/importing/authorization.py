"""Istio's AuthorizationPolicy as rules of services.

Istio asks, in this order: CUSTOM, DENY, ALLOW; a workload that no ALLOW policy speaks of may be called by anybody.
1. ``{}`` allows nothing (it has no rules); ``rules: [{}]`` allows everything.  2. The items of ``from`` and of ``to``
are alternatives, the fields of one item all hold.  3. The intent denies what no rule allows; so a rule
that allows and of which a part cannot be expressed is left out whole.  Where that is so of a DENY policy, or a policy
is CUSTOM, whatever it may touch is left out of what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from vestibule.intent.importing import codes, patterns
from vestibule.intent.importing.conditions import (
    Inexpressible,
    caller_is,
    joined,
    method_is,
    path_is,
    whens,
)
from vestibule.intent.importing.documents import Document, Part
from vestibule.intent.importing.result import Item, Port, Result, Service, name_of
from vestibule.intent.importing.settings import APP_LABELS
from vestibule.intent.words import ANYONE, METHODS

ROOT: Final = "istio-system"
_DRY_RUN: Final = "istio.io/dry-run"
_MOST: Final = 200
_NOT_CALLERS: Final = {"notPrincipals": "principals", "notNamespaces": "namespaces"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Denial:
    """What a DENY or CUSTOM policy may touch; None is everything."""

    title: str
    methods: frozenset[str] | None = None
    callers: frozenset[str] | None = None


def import_authorization(documents: list[Document], result: Result) -> None:
    """All policies together, since one takes away from another."""
    policies = [each for each in documents if each.kind == "AuthorizationPolicy"]
    # What takes away comes last, whatever the order of the files.
    for document in sorted(policies, key=lambda each: each.spec.text("action") not in ("", "ALLOW")):
        _policy(document, result)
    for document in documents:
        if document.kind == "RequestAuthentication":
            _deny(document, result, "tokens that callers show are not looked at here")


def _policy(document: Document, result: Result) -> None:
    spec = document.spec
    action = spec.text("action") or "ALLOW"
    trial = document.annotations.get(_DRY_RUN) == "true"
    if action == "ALLOW":
        _allow(document, result, trial=trial)
    elif action == "DENY":
        _refuse(document, result, trial=trial)
    elif trial:
        message = f"{document.title} is a trial (dry-run) of what cannot be expressed, and enforces nothing"
        result.report.add(codes.NOT_CARRIED, message, document.where)
        spec.take()
    elif action == "AUDIT":
        result.report.add(
            codes.NOT_CARRIED, "every denied call is logged; nothing else is audited", document.where
        )
        spec.take()
    else:
        _deny(document, result, f"{action} is not part of the intent")


# ------------------------------------------------------------------------------------------- to whom


def _targets(document: Document, result: Result) -> list[Service] | None:
    """The services that a policy is for; None if that cannot be said."""
    spec = document.spec
    selector, refs = spec.part("selector"), [*spec.each("targetRefs")]
    if (one := spec.part("targetRef")) is not None:
        refs.append(one)
    if refs:
        names = [
            each.text("name")
            for each in refs
            if each.text("kind") == "Service" and not each.text("namespace")
        ]
        return _named(names, document, result) if len(names) == len(refs) else None
    labels = selector.part("matchLabels") if selector is not None else None
    if labels is None or not labels.said_keys():
        return [each for each in result.services.values() if document.namespace in (ROOT, each.namespace)]
    said = {labels.text(key) for key in labels.said_keys()}
    if set(labels.said_keys()) <= set(APP_LABELS) and len(said) == 1:
        return _labelled(said.pop(), document, result)
    return None


def _labelled(label: str, document: Document, result: Result) -> list[Service] | None:
    """The services whose workloads have the label ``app``; without a Service document, the one of that name."""
    known = [each for each in result.services.values() if each.namespace == document.namespace]
    if found := [each for each in known if each.app == label]:
        return found
    service = result.service(label, document.namespace, document.where)
    if service is None or service.app is not None:
        return None
    message = f"the workload {label} is the service {label}, since no Service document says otherwise"
    result.report.add(codes.ASSUMED, message, document.where)
    return [service]


def _named(names: list[str], document: Document, result: Result) -> list[Service] | None:
    found = [result.service(each, document.namespace, document.where) for each in names]
    return [each for each in found if each is not None] if all(found) else None


def known_targets(documents: list[Document], result: Result) -> None:
    """Make the services known that policies name, before those that are for whole namespaces are read."""
    for document in documents:
        if document.kind not in ("AuthorizationPolicy", "RequestAuthentication"):
            continue
        numbers = {
            port
            for rule in document.spec.each("rules")
            for each in rule.each("to")
            if (operation := each.part("operation")) is not None
            for port in operation.texts("ports")
        }
        targets = _targets(document, result) or []
        for service in targets if len(targets) == 1 else ():
            for port in sorted(numbers):
                # A Service document says all; without one, what others name is what there is.
                if port.isdigit() and service.app is None:
                    result.assume_port(service, int(port), "http", document.where)


# ---------------------------------------------------------------------------------------------- allow


def _allow(document: Document, result: Result, *, trial: bool) -> None:
    spec, targets = document.spec, _targets(document, result)
    if targets is None:
        message = f"{document.title}: it cannot be said which services it is for; what it allows is denied"
        result.report.add(codes.RULE_DROPPED, message, spec.where)
        spec.take()
        return
    for service in targets:
        service.spoken_of = service.spoken_of or not trial
    for number, part in enumerate(spec.each("rules")):
        _rule(document, part, number, targets, result, trial=trial)


def _rule(
    document: Document, part: Part, number: int, targets: list[Service], result: Result, *, trial: bool
) -> None:
    try:
        found = list(_alternatives(part, result))
        for service in targets:
            for index, said in enumerate(found):
                if trial:
                    said["mode"] = "shadow"
                service.rules += _items(service, document, (number, index), said, part, result)
    except Inexpressible as why:
        left = "is not tried out" if trial else "is denied"
        message = f"{document.title}: {why}; what rule {number + 1} allows {left}"
        result.report.add(codes.RULE_DROPPED, message, why.where)
    part.take()


def _alternatives(part: Part, result: Result, *, denies: bool = False) -> Iterator[dict[str, Any]]:
    """What one rule allows or denies, each as a rule of ours.  Raises: Inexpressible."""
    for key in part.said_keys():
        if key not in ("from", "to", "when") and part.has(key):
            raise Inexpressible(f"{key!r} cannot be expressed", part.where)
    if not part.each("from") and not denies:
        raise Inexpressible(
            "anybody may call, with or without an identity, which cannot be expressed", part.where
        )
    always = whens(part, result)
    for operation in [each.part("operation") for each in part.each("to")] or [None]:
        if operation is None and part.each("to"):
            raise Inexpressible("an item of 'to' without an operation", part.where)
        for callers, of_caller in _sources(part, result, denies=denies):
            for said, of_request in _operations(operation, result, denies=denies):
                made: dict[str, Any] = {"from": callers, **said}
                if conditions := [*of_caller, *of_request, *always]:
                    made["when"] = joined(conditions, part.where)
                yield made


def _sources(part: Part, result: Result, *, denies: bool) -> Iterator[tuple[list[str] | str, list[str]]]:
    """Who is meant, and what else must hold of them; those of whom nothing else must, together."""
    plain: set[str] = set()
    anyone = not part.each("from")
    for item in part.each("from"):
        callers, conditions = _source(item, result, denies=denies)
        everybody = f"spiffe://{result.trust_domain}/**" in callers or not callers
        if conditions:
            yield (ANYONE if everybody else sorted(set(callers))), conditions
        elif everybody and denies:
            anyone = True
        else:
            plain.update(callers)
    if anyone:
        yield ANYONE, []
    elif plain:
        yield sorted(plain), []


def _source(item: Part, result: Result, *, denies: bool) -> tuple[list[str], list[str]]:
    """Callers, none being everybody, and conditions of them.  Raises: Inexpressible."""
    source = item.part("source")
    said = [key for key in (source.said_keys() if source else []) if source and source.has(key)]
    if source is None or set(item.said_keys()) != {"source"}:
        raise Inexpressible(
            "a source with none or several conditions at once cannot be expressed", item.where
        )
    conditions = [
        f"!({caller_is(source, key, _NOT_CALLERS[key], result)})" for key in said if key in _NOT_CALLERS
    ]
    rest = [key for key in said if key not in _NOT_CALLERS]
    if not rest and conditions and denies:
        return [], conditions
    return _callers(item, result, but=frozenset(_NOT_CALLERS)), conditions


def _callers(item: Part, result: Result, but: frozenset[str] = frozenset()) -> list[str]:
    source = item.part("source")
    said = [key for key in (source.said_keys() if source else []) if source and source.has(key)]
    said = [key for key in said if key not in but]
    if source is None or set(item.said_keys()) != {"source"} or len(said) != 1:
        raise Inexpressible(
            "a source with none or several conditions at once cannot be expressed", item.where
        )
    make = {"principals": patterns.caller, "namespaces": patterns.namespace}.get(said[0])
    if make is None:
        if said[0] == "serviceAccounts":
            raise Inexpressible("'serviceAccounts' cannot be expressed; use principals", source.where)
        raise Inexpressible(f"'{said[0]}' cannot be expressed", source.where)
    found = [make(each, result) for each in source.texts(said[0])]
    if not found or None in found:
        raise Inexpressible(f"one of the {said[0]} has a pattern that cannot be expressed", source.where)
    if "*" in source.texts(said[0]):
        message = f"any identity: here it is any of {result.trust_domain}"
        result.report.add(codes.NARROWED, message, source.where)
    accounts = {
        f"spiffe://{result.trust_domain}/ns/{result.environment}/sa/{each}": each for each in result.services
    }
    for each in found:
        if each in accounts:
            message = f"the service account {accounts[each]} is that of the service {accounts[each]}, and no other's"
            result.report.add(codes.ASSUMED, message, source.where)
    return [each for each in found if each is not None]


def _operations(
    operation: Part | None, result: Result, *, denies: bool
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    if operation is None:
        yield {}, []
        return
    said: dict[str, Any] = {}
    conditions: list[str] = []
    for key in operation.said_keys():
        if not operation.has(key):
            continue
        if key == "methods":
            said["methods"] = _methods(operation)
        elif key == "paths":
            paths = _all_paths(operation.each("paths"), result, denies=denies)
            if paths is None:
                conditions.append(path_is(operation.each("paths")))
            else:
                said["paths"] = paths
        elif key == "notPaths":
            conditions.append(f"!({path_is(operation.each('notPaths'))})")
        elif key == "notMethods":
            conditions.append(f"!({method_is(operation.texts('notMethods'))})")
        elif key != "ports":
            raise Inexpressible(f"'{key}' cannot be expressed", operation.where)
    if not said and not conditions and not operation.has("ports"):
        raise Inexpressible("an operation that says nothing", operation.where)
    for port in operation.texts("ports") or [""]:
        yield ({"port": port, **said} if port else said), conditions


def _all_paths(said: list[Part], result: Result, *, denies: bool) -> list[str] | None:
    """The paths as patterns of ours; None where only a condition says the same."""
    found: list[str] = []
    for each in said:
        whole = "{" not in each.said
        if denies and each.said.endswith("*") and each.said != "*" and not each.said.endswith("/*"):
            return None
        if whole and each.said.startswith("*") and each.said != "*":
            return None
        found += _paths(each, result)
    return found


def _methods(operation: Part) -> list[str]:
    said = operation.texts("methods")
    odd = [each for each in said if each not in METHODS]
    if not said or odd:
        raise Inexpressible(
            f"the methods {', '.join(odd) or 'are none'} cannot be expressed", operation.where
        )
    return sorted(set(said))


def _paths(part: Part, result: Result) -> list[str]:
    said = part.said
    if said == "*":
        return ["/**"]
    if said.endswith("/*"):
        if (below := patterns.paths_below(said.removesuffix("*"))) is not None:
            return below
    elif said.endswith("*"):
        if (prefix := patterns.element_prefix(said.removesuffix("*"))) is not None:
            message = f"{said} is carried over as {prefix}: whole segments only"
            result.report.add(codes.NARROWED, message, part.where)
            return [prefix]
    elif (exact := patterns.exact_path(said)) is not None:
        return [exact]
    raise Inexpressible(f"the path {said[:80]!r} cannot be expressed", part.where)


def _at(service: Service, target: str) -> Port | None:
    """The port at which workloads listen there, if it is certain."""
    if not target.isdigit() or any(not each.target for each in service.ports):
        return None
    found = [each for each in service.ports if each.target == int(target)]
    return found[0] if len(found) == 1 else None


def _items(
    service: Service,
    document: Document,
    number: tuple[int, int],
    said: dict[str, Any],
    part: Part,
    result: Result,
    *,
    denies: bool = False,
) -> Iterator[Item]:
    said = dict(said)
    wanted = said.pop("port", "")
    for port in service.ports if not wanted else [_at(service, wanted)]:
        if port is None:
            raise Inexpressible(f"{service.name} has no port {wanted[:20]} that is known here", part.where)
        of_requests = [key for key in ("methods", "paths", "when") if key in said]
        if port.protocol == "tcp" and of_requests and not denies:
            message = f"{document.title}: port {port.name} speaks TCP, where methods and paths match nothing"
            result.report.add(codes.RULE_DROPPED, message, part.where)
            continue
        if port.protocol == "tcp":
            of_requests = []
        rule_id = (
            name_of(f"{document.name}-{number[0] + 1}-{number[1] + 1}-{port.name}")
            or f"rule-{len(service.rules) + len(service.denials)}"
        )
        if len(service.rules) >= _MOST and not denies:
            return
        value = {"id": rule_id, "from": said["from"], "port": port.name}
        value |= {key: said[key] for key in (*of_requests, "mode") if key in said}
        yield Item(value, part.where)


# ----------------------------------------------------------------------------------------------- deny


def _refuse(document: Document, result: Result, *, trial: bool) -> None:
    """A DENY policy as rules that deny; if a part of it cannot be, all that it may touch is left out instead."""
    targets = _targets(document, result)
    try:
        if targets is None or (not targets and not document.spec.has("selector")):
            raise Inexpressible("it cannot be said which services it is for", document.where)
        made: list[tuple[Service, list[Item]]] = []
        for number, part in enumerate(document.spec.each("rules")):
            for index, said in enumerate(_alternatives(part, result, denies=True)):
                if trial:
                    said["mode"] = "shadow"
                for service in targets:
                    items = _items(service, document, (number, index), said, part, result, denies=True)
                    made.append((service, list(items)))
    except Inexpressible as why:
        if trial:
            message = f"{document.title} is a trial (dry-run): {why}; it is not tried out"
            result.report.add(codes.NOT_CARRIED, message, why.where)
            document.spec.take()
        else:
            _deny(document, result, str(why))
        return
    for service, denials in made:
        service.denials += denials
    document.spec.take()


def _deny(document: Document, result: Result, why: str) -> None:
    """Whatever it may touch is left out of what was allowed."""
    targets = _targets(document, result)
    everything = [_Denial(title=document.title)]
    rules = document.spec.each("rules")
    denials = everything
    if document.kind == "AuthorizationPolicy":
        denials = [denial for part in rules for denial in _denials(document, part, result)]
    if not targets and not document.spec.has("selector"):
        # The root namespace, which is for all, may have another name than it has by default.
        targets = None
    for service in targets if targets is not None else list(result.services.values()):
        kept: list[Item] = []
        for item in service.rules:
            taken = next((each for each in denials if _may_touch(each, item)), None)
            if taken is None:
                kept.append(item)
                continue
            message = (
                f"the rule {item.value['id']} of {service.name} is left out because of {taken.title}: {why}"
            )
            result.report.add(codes.RULE_DROPPED, message, item.where)
        service.rules = kept
    message = f"{document.title}: {why}; rules that it may touch are left out"
    result.report.add(codes.NOT_CARRIED, message, document.where)
    document.spec.take()


def _denials(document: Document, part: Part, result: Result) -> Iterator[_Denial]:
    """Whatever is not certain counts as everything."""
    callers: frozenset[str] | None = None
    try:
        if part.each("from"):
            callers = frozenset(each for item in part.each("from") for each in _callers(item, result))
    except Inexpressible:
        callers = None
    operations = [each.part("operation") for each in part.each("to")]
    for operation in operations or [None]:
        methods = operation.texts("methods") if operation is not None else []
        certain = bool(methods) and all(each in METHODS for each in methods)
        yield _Denial(title=document.title, methods=frozenset(methods) if certain else None, callers=callers)


def _may_touch(denial: _Denial, item: Item) -> bool:
    methods, callers = item.value.get("methods"), item.value["from"]
    if denial.methods is not None and methods is not None and not denial.methods & set(methods):
        return False
    known = denial.callers
    patterned = known is None or any(each.endswith("/**") for each in (*known, *callers))
    return patterned or bool((known or frozenset()) & set(callers))
