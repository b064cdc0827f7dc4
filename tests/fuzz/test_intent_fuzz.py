"""Whatever people write, the answer is an intent or problems; whatever is called, the decision is the plain one."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.intent.reading import whole_language

from vestibule.errors import VestibuleError
from vestibule.intent import Loaded, Severity, load_files
from vestibule.intent.loading import load_up_text
from vestibule.pki.bundles import to_pem
from vestibule.policy import NOT_NORMAL, Call, IdentityMatch, PathPattern, Rule, is_normal, may_call
from vestibule.policy.path_trees import PatternTree
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.testing import TestAuthority
from vestibule.testing.deciding import decided

SHOP = Path(__file__).parents[2] / "examples" / "shop"
FILES = {
    path.relative_to(SHOP).as_posix(): path.read_bytes()
    for path in [SHOP / "mesh.yaml", *sorted((SHOP / "services").iterdir())]
}
# Kinds of files that the shop has none of.
FILES |= {
    "egress/stripe.yaml": b"""\
external: stripe
hosts: [api.stripe.com:443]
tls: {ca: certs/ca.pem, sni: stripe.internal}
addresses: [10.0.0.7:443]
allow: [{id: pay, from: [payments], methods: [POST], paths: [/v1/**]}]
credential: {header: authorization, prefix: 'Bearer ', file: /etc/stripe/token}
limits: [{requests: 10/s, burst: 5, path: /v1/**}]
timeout: 3s
""",
    "gateways/edge.yaml": b"""\
gateway: edge
listeners: {https: {port: 8443, tls: {certificate: /a.crt, key: /a.key}, hosts: [shop.example.com, '*.b.example']}}
routes:
  - {id: up, match: {path: /old/**}, redirect: {https: true, path: /new, status: 308}}
  - {id: a, match: {hosts: [shop.example.com], headers: {x-a: {prefix: b}}}, to: canary, rewrite: {path: /}}
""",
    "services/canary.yaml": b"""\
service: canary
ports: {http: {protocol: http}}
versions: [v1, v2]
health: {http: /healthz, every: 5s}
circuit_limits: {connections: 10, retry_budget: {percent: 20, least: 3}}
outlier_detection: {most: 50%}
locality: {prefer: zone, failover: [eu-west]}
limits: [{requests: 100/s, per: caller}]
mtls: {permissive_until: 2099-01-01T00:00:00Z, reason: why, allow: [{id: a, paths: [/a]}]}
allow: [{id: web, from: [web, edge], methods: [GET]}]
routes:
  - {id: a, match: {path: /v1/**, query: {q: {present: false}}}, split: {v1: 90, v2: 10}, retry: {on: [503, reset]}}
  - id: b
    match: {methods: [GET]}
    mirror: [{to: v2, percent: 12.5}]
    hedge: {after: 200ms}
    fault: {until: 2099-01-01T00:00:00Z, abort: {status: 503}}
""",
}
CERTIFICATE = TestAuthority(TrustDomain.parse("example.org")).bundle
FILES["certs/ca.pem"] = to_pem(CERTIFICATE)
WORDS_OF = [each for name, each in FILES.items() if name.endswith(".yaml")]


@pytest.fixture(autouse=True, scope="module")
def _whole_language() -> Iterator[None]:
    with whole_language():
        yield


# A machine under load is no finding.
unhurried = settings(deadline=None)
UP = (SHOP / "up.yaml").read_bytes()
WORDS = re.findall(r"[\w./{}*:-]+|[\[\]{},:#&*!|>'\"-]", "".join(each.decode() for each in WORDS_OF))
scraps = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(
        ["\n", "\n  ", "\n- ", "\t", ": ", " #", "*a", "&a ", "!!", "---\n", "~", "on", "1e9", "\x85"]
    ),
    st.text(max_size=8),
)
yaml_texts = st.lists(scraps, max_size=60).map("".join)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=10), st.sampled_from(WORDS)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=25,
)


environments = st.sampled_from(["", "environments/prod/", "environments/staging/"])


@unhurried
@given(
    moved=st.dictionaries(st.sampled_from(sorted(FILES)), environments),
    wanted=st.sampled_from([None, "prod", "test"]),
)
def test_files_in_any_environment_give_problems_or_an_intent(
    moved: dict[str, str], wanted: str | None
) -> None:
    files = {f"{moved.get(name, '')}{name}": content for name, content in FILES.items()}
    loaded = load_files(files, wanted)
    check(loaded, files)
    assert set(loaded.files) <= set(files)
    if loaded.intent is not None:
        assert load_files(loaded.files) == loaded


def check(loaded: Loaded, files: dict[str, bytes]) -> None:
    errors = [found for found in loaded.problems if found.severity is Severity.ERROR]
    assert (loaded.intent is None) == bool(errors)
    for found in loaded.problems:
        assert found.message
        assert found.advice
        str(found.error).encode("utf-8")
        if found.where.line is not None:
            content = files[found.where.file].decode("utf-8", "replace")
            lines = len(re.split("\r\n|[\r\n\x85\u2028\u2029]", content))
            assert 1 <= found.where.line <= lines + 1
            assert found.where.column is not None


@unhurried
@given(name=st.sampled_from(sorted(FILES)), content=st.one_of(yaml_texts, st.text()))
def test_any_text_gives_problems_or_an_intent(name: str, content: str) -> None:
    files = {**FILES, name: content.encode("utf-8", "surrogatepass")}
    check(load_files(files), files)


def test_the_files_to_begin_with_are_an_intent() -> None:
    assert load_files(FILES).problems == ()


@unhurried
@given(name=st.sampled_from(sorted(FILES)), content=st.binary())
def test_any_bytes_give_problems_or_an_intent(name: str, content: bytes) -> None:
    files = {**FILES, name: content}
    check(load_files(files), files)


@unhurried
@given(name=st.sampled_from(sorted(FILES)), value=plain)
def test_any_value_in_any_place_gives_problems_or_an_intent(name: str, value: object) -> None:
    files = {**FILES, name: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")}
    check(load_files(files), files)
    load_up_text(files[name], None)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_change_to_the_shop_gives_problems_or_an_intent(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted([*FILES, "up.yaml"])))
    text = FILES.get(name, UP).decode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    changed = (text[:start] + data.draw(yaml_texts) + text[end:]).encode("utf-8", "surrogatepass")
    if name == "up.yaml":
        loaded = load_up_text(changed, load_files(FILES).intent)
        assert (loaded.up is None) == bool(loaded.problems)
    else:
        check(load_files({**FILES, name: changed}), {**FILES, name: changed})


# ---------------------------------------------------------------------------------------------- decisions

segments = st.sampled_from(["a", "b", "ab", "a.b", "v1"])
pattern_texts = st.builds(
    lambda parts, tail: "/" + "/".join(parts) + tail,
    st.lists(segments | st.sampled_from(["{x}", "{y}"]), min_size=1, max_size=4),
    st.sampled_from(["", "", "/", "/**"]),
) | st.sampled_from(["/", "/**"])
paths = st.builds(
    lambda parts, tail: "/" + "/".join(parts) + tail,
    st.lists(segments | st.sampled_from(["", ".", "..", "a%20", "%2e", "a;b"]), max_size=5),
    st.sampled_from(["", "", "/", "?q=/a", "#"]),
) | st.text(max_size=12)
ids = st.builds(
    lambda domain, parts: f"spiffe://{domain}" + "".join(f"/{part}" for part in parts),
    st.sampled_from(["a.org", "b.org"]),
    st.lists(segments, max_size=3),
)
callers = st.builds(lambda text, below: text + below, ids, st.sampled_from(["", "/**"]))
rules = st.builds(
    lambda name, callers, port, methods, paths: (name, callers, port, methods, paths),
    st.sampled_from(["s/one", "s/two", "s/three"]),
    st.lists(callers, min_size=1, max_size=3),
    st.sampled_from([None, "http", "raw"]),
    st.sets(st.sampled_from(["GET", "POST"])),
    st.lists(pattern_texts, max_size=3),
)
RuleTexts = tuple[str, list[str], str | None, set[str], list[str]]


def rule_of(texts: RuleTexts) -> Rule:
    name, who, port, methods, where = texts
    return Rule(
        name=name,
        callers=tuple(IdentityMatch.parse(text) for text in who),
        port=port,
        methods=frozenset(methods),
        paths=tuple(PathPattern.parse(text) for text in where),
    )


def plainly_matches_path(pattern: str, path: str) -> bool:
    """Segment by segment from the left, as the documentation says it."""
    if pattern == "/**":
        return True
    if pattern.endswith("/**"):
        depth = pattern.count("/") - 1
        head = "/".join(path.split("/")[: depth + 1])
        return path.count("/") >= depth and plainly_matches_path(pattern[:-3], head)
    ours, theirs = pattern.split("/"), path.split("/")
    return len(ours) == len(theirs) and all(
        (mine == its) or (mine.startswith("{") and its != "") for mine, its in zip(ours, theirs, strict=True)
    )


def plainly_matches_caller(pattern: str, caller: str) -> bool:
    base = pattern.removesuffix("/**")
    return caller == base or (base != pattern and caller.startswith(base + "/"))


def plainly_allows(texts: RuleTexts, caller: str, port: str, method: str | None, path: str | None) -> bool:
    _, who, for_port, methods, where = texts
    return (
        any(plainly_matches_caller(pattern, caller) for pattern in who)
        and for_port in (None, port)
        and (not methods or method in methods)
        and (not where or (path is not None and any(plainly_matches_path(each, path) for each in where)))
    )


@settings(max_examples=500, deadline=None)
@given(
    texts=st.lists(rules, max_size=4),
    caller=ids,
    port=st.sampled_from(["http", "raw"]),
    method=st.sampled_from([None, "GET", "POST", "get"]),
    path=st.none() | paths,
)
def test_a_decision_is_what_the_plain_reading_says(
    texts: list[RuleTexts], caller: str, port: str, method: str | None, path: str | None
) -> None:
    bare = None if path is None else path.split("?")[0]
    first = next((each[0] for each in texts if plainly_allows(each, caller, port, method, bare)), None)
    allowed = first is not None
    if bare is not None and not is_normal(bare):
        allowed, first = False, NOT_NORMAL
    parsed = [rule_of(each) for each in texts]
    identity = SpiffeId.parse(caller)
    decision = decided(parsed, Call(caller=identity, port=port, method=method, path=path))
    assert (decision.allowed, decision.rule) == (allowed, first)
    assert not decision.allowed or may_call(parsed, identity, port)


@unhurried
@given(text=pattern_texts, path=paths)
def test_a_pattern_and_its_regular_expression_agree(text: str, path: str) -> None:
    pattern = PathPattern.parse(text)
    assert str(pattern) == text
    assert pattern.matches(path) == (is_normal(path) and re.fullmatch(pattern.regex, path) is not None)
    assert not pattern.matches(path) or path.startswith(pattern.literal)


@unhurried
@given(one=pattern_texts, other=pattern_texts, path=paths)
def test_a_pattern_that_covers_another_matches_all_that_it_matches(one: str, other: str, path: str) -> None:
    wide, narrow = PathPattern.parse(one), PathPattern.parse(other)
    if wide.covers(narrow) and narrow.matches(path):
        assert wide.matches(path)


@unhurried
@given(one=rules, other=rules, caller=ids, method=st.sampled_from(["GET", "POST"]), path=paths)
def test_a_rule_that_covers_another_allows_all_that_it_allows(
    one: RuleTexts, other: RuleTexts, caller: str, method: str, path: str
) -> None:
    wide, narrow = rule_of(one), rule_of(other)
    if wide.covers(narrow):
        for port in ("http", "raw"):
            call = Call(caller=SpiffeId.parse(caller), port=port, method=method, path=path)
            assert decided([wide], call).allowed or not decided([narrow], call).allowed


@unhurried
@given(text=st.text(max_size=40) | st.builds("".join, st.lists(scraps, max_size=8)).map("/{}".format))
def test_any_text_is_a_pattern_of_normal_paths_or_refused(text: str) -> None:
    try:
        pattern = PathPattern.parse(text)
    except VestibuleError:
        return
    example = re.sub(r"\{\w+\}", "x", text.removesuffix("/**")) or "/"
    assert is_normal(example)
    assert pattern.matches(example)
    assert str(pattern) == text


@unhurried
@given(path=paths)
def test_a_normal_path_has_nothing_left_to_resolve(path: str) -> None:
    if is_normal(path):
        seen = unquote(path)
        kept = posixpath.normpath(seen) + ("/" if seen.endswith("/") and seen != "/" else "")
        assert kept == seen
        assert not set(path) & set(";#\\ ")


@unhurried
@given(texts=st.lists(pattern_texts, max_size=8), other=pattern_texts)
def test_the_tree_finds_exactly_the_patterns_that_cover_another(texts: list[str], other: str) -> None:
    patterns = [PathPattern.parse(text) for text in texts]
    tree = PatternTree()
    for number, pattern in enumerate(patterns):
        tree.add(pattern, number)
    narrow = PathPattern.parse(other)
    covering = {number for number, pattern in enumerate(patterns) if pattern.covers(narrow)}
    assert sorted(tree.covering(narrow)) == sorted(covering)
