"""Istio's AuthorizationPolicy as rules of services.

Istio asks, in this order: CUSTOM, DENY, ALLOW; a workload that no ALLOW policy speaks of may be called by anybody.
1. ``{}`` allows nothing (it has no rules); ``rules: [{}]`` allows everything.  2. The items of ``from`` and of ``to``
are alternatives, the fields of one item all hold.  3. The intent has no wildcard for "anybody" and denies what no
rule allows; so a rule of which a part cannot be expressed is left out whole, and what a DENY or CUSTOM policy may touch
is left out, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from vestibule.errors import Where
from vestibule.intent.importing import codes, patterns
from vestibule.intent.importing.documents import Document, Part
from vestibule.intent.importing.result import Item, Port, Result, Service, name_of
from vestibule.intent.importing.settings import APP_LABELS
from vestibule.intent.words import METHODS

ROOT: Final = "istio-system"
_DRY_RUN: Final = "istio.io/dry-run"
_MOST: Final = 200


class Inexpressible(Exception):  # noqa: N818 - it reads as what it says
    """A part of a rule has no counterpart."""

    def __init__(self, what: str, where: Where) -> None:
        super().__init__(what)
        self.where = where


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
    if document.annotations.get(_DRY_RUN) == "true":
        message = f"{document.title} is a trial (dry-run) and enforces nothing"
        result.report.add(codes.NOT_CARRIED, message, document.where)
        spec.take()
    elif action == "ALLOW":
        _allow(document, result)
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


def _allow(document: Document, result: Result) -> None:
    spec, targets = document.spec, _targets(document, result)
    if targets is None:
        message = f"{document.title}: it cannot be said which services it is for; what it allows is denied"
        result.report.add(codes.RULE_DROPPED, message, spec.where)
        spec.take()
        return
    for service in targets:
        service.spoken_of = True
    for number, part in enumerate(spec.each("rules")):
        _rule(document, part, number, targets, result)


def _rule(document: Document, part: Part, number: int, targets: list[Service], result: Result) -> None:
    try:
        found = list(_alternatives(part, result))
        for service in targets:
            for index, said in enumerate(found):
                _add(service, document, (number, index), said, part, result)
    except Inexpressible as why:
        message = f"{document.title}: {why}; what rule {number + 1} allows is denied"
        result.report.add(codes.RULE_DROPPED, message, why.where)
    part.take()


def _alternatives(part: Part, result: Result) -> Iterator[dict[str, Any]]:
    """What one rule allows, each as a rule of ours.  Raises: Inexpressible."""
    for key in part.said_keys():
        if key not in ("from", "to") and part.has(key):
            raise Inexpressible(f"{key!r} cannot be expressed", part.where)
    if not part.each("from"):
        raise Inexpressible(
            "anybody may call, with or without an identity, which cannot be expressed", part.where
        )
    callers = [caller for item in part.each("from") for caller in _callers(item, result)]
    for operation in [each.part("operation") for each in part.each("to")] or [None]:
        if operation is None and part.each("to"):
            raise Inexpressible("an item of 'to' without an operation", part.where)
        yield from ({"from": sorted(set(callers)), **said} for said in _operations(operation, result))


def _callers(item: Part, result: Result) -> list[str]:
    source = item.part("source")
    said = [key for key in (source.said_keys() if source else []) if source and source.has(key)]
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


def _operations(operation: Part | None, result: Result) -> Iterator[dict[str, Any]]:
    if operation is None:
        yield {}
        return
    said: dict[str, Any] = {}
    for key in operation.said_keys():
        if not operation.has(key):
            continue
        if key == "methods":
            said["methods"] = _methods(operation)
        elif key == "paths":
            said["paths"] = [path for each in operation.each("paths") for path in _paths(each, result)]
        elif key != "ports":
            raise Inexpressible(f"'{key}' cannot be expressed", operation.where)
    if not said and not operation.has("ports"):
        raise Inexpressible("an operation that says nothing", operation.where)
    for port in operation.texts("ports") or [""]:
        yield {"port": port, **said} if port else said


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


def _add(
    service: Service,
    document: Document,
    number: tuple[int, int],
    said: dict[str, Any],
    part: Part,
    result: Result,
) -> None:
    said = dict(said)
    wanted = said.pop("port", "")
    for port in service.ports if not wanted else [_at(service, wanted)]:
        if port is None:
            raise Inexpressible(f"{service.name} has no port {wanted[:20]} that is known here", part.where)
        if port.protocol == "tcp" and ("methods" in said or "paths" in said):
            message = f"{document.title}: port {port.name} speaks TCP, where methods and paths match nothing"
            result.report.add(codes.RULE_DROPPED, message, part.where)
            continue
        rule_id = (
            name_of(f"{document.name}-{number[0] + 1}-{number[1] + 1}-{port.name}")
            or f"rule-{len(service.rules)}"
        )
        if len(service.rules) < _MOST:
            value = {"id": rule_id, "from": said["from"], "port": port.name}
            value |= {key: said[key] for key in ("methods", "paths") if key in said}
            service.rules.append(Item(value, part.where))


# ----------------------------------------------------------------------------------------------- deny


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
