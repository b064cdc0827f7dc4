"""Templates: what they give for what was attested, and that no two workloads get the same from one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.spiffe.templates import PathTemplate, check_dns_template, escaped, fill_dns_name, fill_text

TD = TrustDomain.parse("example.org")


def selectors(*texts: str) -> frozenset[Selector]:
    return frozenset(Selector.parse(text) for text in texts)


POD = selectors("k8s:ns:prod", "k8s:sa:web", "k8s:pod-label:app:shop", "unix:uid:1000")


@pytest.mark.parametrize(
    ("template", "path", "prefix"),
    [
        ("/ns/{k8s:ns}/sa/{k8s:sa}", "/ns/prod/sa/web", "/ns"),
        ("/ns/prod/app-{k8s:pod-label:app}.x", "/ns/prod/app-shop.x", "/ns/prod"),
        ("/fixed/path", "/fixed/path", "/fixed/path"),
    ],
)
def test_a_template_gives_a_path(template: str, path: str, prefix: str) -> None:
    parsed = PathTemplate.parse(template)
    assert (parsed.fill(POD), parsed.prefix) == (path, prefix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ns/{k8s:ns}",
        "/{k8s:ns}",
        "/spire/{k8s:ns}",
        "/a/{k8s:ns}{k8s:sa}",
        "/a/{k8s:ns}-{k8s:sa}",
        "/a//{k8s:ns}",
        "/a/{k8s:ns}/",
        "/a/{k8s}",
        "/a/{k8s:}",
        "/a/{:ns}",
        "/a/{k8s:ns",
        "/a/k8s:ns}",
        "/a/{{k8s:ns}}",
        "/a/{k8s:a/b}",
        "/a/../{k8s:ns}",
        "/a/ü{k8s:ns}",
        "/a/{k8s:" + "n" * 2000 + "}",
    ],
)
def test_a_template_that_breaks_a_rule_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError, match="VST1404"):
        PathTemplate.parse(text)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((), "no selector"),
        (("unix:user:",), "empty"),
        (("unix:user:a", "unix:user:b"), "2 selectors"),
        (("unix:user:" + "a" * 256,), "longer than"),
        (("unix:username:a",), "no selector"),
    ],
)
def test_a_variable_needs_exactly_one_usable_value(found: tuple[str, ...], words: str) -> None:
    attested = frozenset(Selector("unix", text.removeprefix("unix:")) for text in found)
    with pytest.raises(VestibuleError, match=words):
        PathTemplate.parse("/user/{unix:user}").fill(attested)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("alice", "alice"),
        ("a_b", "a_b"),
        ("a_xb", "a_x5Fxb"),
        ("..", "_x2E."),
        (".", "_x2E"),
        ("...", "..."),
        ("a/b", "a_x2Fb"),
        ("ü", "_xC3_xBC"),
        ("a b", "a_x20b"),
    ],
)
def test_what_a_segment_may_not_hold_is_written_otherwise(value: str, written: str) -> None:
    assert escaped(value) == written
    SpiffeId.of(TD, f"/user/{written}")


VALUES = st.text(st.sampled_from("a_x5F2E./ü%~A") | st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(VALUES, VALUES)
def test_two_values_are_never_written_alike(one: str, other: str) -> None:
    assert (escaped(one) == escaped(other)) == (one == other)
    assert SpiffeId.of(TD, f"/user/{escaped(one)}").path == f"/user/{escaped(one)}"


def test_in_a_dns_name_a_value_is_a_label_or_nothing() -> None:
    name = "{k8s:sa}.{k8s:ns}.svc"
    assert fill_dns_name(name, POD) == "web.prod.svc"
    for bad in ("k8s:sa:a.b", "k8s:sa:A", "k8s:sa:-a", "k8s:sa:*"):
        with pytest.raises(VestibuleError, match="VST1405"):
            fill_dns_name(name, selectors(bad, "k8s:ns:prod"))
    for wrong in ("a-{k8s:sa}.x", "*.{k8s:sa}", "{k8s:sa}..x", "{k8s:pod-label:a.b}.x"):
        with pytest.raises(VestibuleError, match="VST1404"):
            check_dns_template(wrong)


def test_in_a_text_a_value_stands_as_it_is() -> None:
    assert fill_text("team {k8s:pod-label:app}!", POD) == "team shop!"
