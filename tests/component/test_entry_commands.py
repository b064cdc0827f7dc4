"""``vestibule entry`` and ``vestibule admin`` against a real server, as an operator types them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.component.server_lab import Lab, running, short_directory

from vestibule.app.main import cli

pytestmark = pytest.mark.asyncio(loop_scope="module")
NODE = "spiffe://example.org/spire/server"
WEB = "spiffe://example.org/ns/prod/sa/web"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    with short_directory() as directory:
        async with running(directory, allowed_jwt_claims=("org_*",)) as made:
            yield made


async def typed(lab: Lab, *words: str, stdin: str = "") -> tuple[int, str, str]:
    socket = ("--server-socket", str(lab.directory / "run" / "server.sock"))
    # In a thread of this process: a process for each command would cost more than all that is tested here.
    return await asyncio.to_thread(_run, [*words, *socket], stdin)


def _run(words: list[str], stdin: str) -> tuple[int, str, str]:
    out, error, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            cli.main(words)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), error.getvalue()
    finally:
        sys.stdin = before
    return 0, out.getvalue(), error.getvalue()


async def data(lab: Lab, *words: str, stdin: str = "", expect: int = 0) -> Any:
    code, out, error = await typed(lab, *words, "-o", "json", stdin=stdin)
    assert code == expect, error or out
    return json.loads(out)["data"]


async def create(lab: Lab, path: str, selector: str, *more: str, expect: int = 0) -> Any:
    words = ("--parent-id", "spiffe://example.org/node/x", "--parent-to-come", "--selector", selector)
    return await data(
        lab, "entry", "create", "--spiffe-id", f"spiffe://example.org{path}", *words, *more, expect=expect
    )


async def test_every_option_of_spire_and_ours_is_kept_and_changed(lab: Lab) -> None:
    made = await create(
        lab,
        "/full",
        "full:1",
        *("--x509-svid-ttl", "10m", "--jwt-svid-ttl", "60s", "--dns-name", "a.example.org"),
        *("--hint", "internal", "--entry-expiry", "2100-01-01T00:00:00+00:00", "--admin", "--downstream"),
        *("--store-svid", "--disable-x509-svid-prefetch", "--jwt-svid-include-jti"),
        *("--label", "team=shop", "--claim", 'org_tier=["a", 1]', "--claim", "org_name=x y"),
    )
    assert made["created"]
    wanted = {
        "x509_svid_ttl": 600,
        "jwt_svid_ttl": 60,
        "dns_names": ["a.example.org"],
        "hint": "internal",
        "expires_at": "2100-01-01T00:00:00+00:00",
        **dict.fromkeys(("admin", "downstream", "store_svid"), True),
        **dict.fromkeys(("disable_x509_svid_prefetch", "jwt_svid_include_jti"), True),
        "labels": {"team": "shop"},
        "jwt_claims": {"org_tier": ["a", 1], "org_name": "x y"},
    }
    assert {name: made[name] for name in wanted} == wanted
    words = ("--no-admin", "--no-jwt-svid-include-jti", "--hint", "", "--x509-svid-ttl", "0s")
    changed = await data(lab, "entry", "update", made["id"], *words)
    assert (changed["admin"], changed["jwt_svid_include_jti"], changed["hint"]) == (False, False, None)
    assert (changed["disable_x509_svid_prefetch"], changed["x509_svid_ttl"]) == (True, None)
    assert changed["labels"] == {"team": "shop"}


async def test_filters_find_and_count(lab: Lab) -> None:
    await create(lab, "/f/1", "f:1", "--label", "env=dev", "--hint", "one")
    await create(lab, "/f/2", "f:2", "--label", "env=prod", "--selector", "f:3")
    for words, number in (
        (("--label", "env"), 2),
        (("--label", "env=dev"), 1),
        (("--hint", "one"), 1),
        (("--selector", "f:2"), 1),
        (("--selector", "f:2", "--match-selectors-on", "exact"), 0),
        (("--selector", "f:1", "--selector", "f:2", "--match-selectors-on", "any"), 2),
        (("--spiffe-id", "spiffe://example.org/f/2"), 1),
        (("--downstream", "--spiffe-id", "spiffe://example.org/f/2"), 0),
    ):
        assert (await data(lab, "entry", "count", *words))["count"] == number, words
        assert len(await data(lab, "entry", "show", *words)) == number, words


async def test_files_of_both_kinds_make_change_and_delete_many(lab: Lab) -> None:
    spires = {
        "entries": [
            {
                "spiffe_id": f"spiffe://example.org/file/{number}",
                "parent_id": NODE,
                "selectors": [{"type": "file", "value": str(number)}],
                "x509_svid_ttl": 60,
                "dns_names": ["x.example.org"],
            }
            for number in range(3)
        ]
    }
    made = await data(lab, "entry", "create", "--data", "-", stdin=json.dumps(spires))
    assert [each["created"] for each in made] == [True] * 3
    again = await data(lab, "entry", "create", "--data", "-", stdin=json.dumps(spires), expect=1)
    assert [each["created"] for each in again] == [False] * 3
    yaml = lab.directory / "change.yaml"
    yaml.write_text(
        "entries:\n"
        + "".join(
            f"  - {{entry_id: {each['id']}, spiffe_id: {each['spiffe_id']}, parent_id: {NODE}, selectors: ['file:x'],"
            " labels: {from: file}}\n"
            for each in made[:2]
        )
    )
    changed = await data(lab, "entry", "update", "--data", str(yaml))
    assert [(each["labels"], each["x509_svid_ttl"]) for each in changed] == [({"from": "file"}, None)] * 2
    code, out, _ = await typed(lab, "entry", "export", "--format", "json", "--label", "from=file")
    exported = json.loads(out)
    assert (code, {each["entry_id"] for each in exported["entries"]}) == (
        0,
        {each["id"] for each in made[:2]},
    )
    gone = await data(lab, "entry", "delete", "--data", "-", stdin=out)
    assert len(gone["deleted"]) == 2
    assert all(each["created"] for each in await data(lab, "entry", "create", "--data", "-", stdin=out))
    code, out, _ = await typed(lab, "entry", "export")
    assert code == 0
    assert "entries:" in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"entries": [{"spiffe_id": "spiffe://example.org/a", "selektors": []}]}', "Did you mean selectors"),
        ('{"entries": [{"spiffe_id": "nonsense"}]}', "VST1400"),
        ('{"entries": [{"spiffe_id": "spiffe://example.org/a", "admin": "yes"}]}', "neither true nor false"),
        ('{"entries": []}', "no entries"),
        ("[1]", "no list of entries"),
        ("a: [", "neither JSON nor YAML"),
        ("{", "not JSON"),
    ],
)
async def test_a_file_that_is_wrong_changes_nothing(lab: Lab, text: str, words: str) -> None:
    before = await data(lab, "entry", "count")
    code, _, error = await typed(lab, "entry", "create", "--data", "-", stdin=text)
    assert code == 2
    assert words in error
    assert await data(lab, "entry", "count") == before


async def test_a_template_is_made_of_the_spiffe_id_as_it_is_written(lab: Lab) -> None:
    made = await create(lab, "/user/{unix:user}", "unix:uid:7", "--claim", "org_user={unix:user}")
    assert made["spiffe_id"] == "spiffe://example.org/user/{unix:user}"
    claims_only = await create(
        lab, "/job", "unix:uid:8", "--claim", "org_user={unix:user}", "--max-identities", "5"
    )
    assert (claims_only["spiffe_id"], claims_only["max_identities"]) == ("spiffe://example.org/job", 5)
    code, _, error = await typed(
        lab, *("entry", "create", "--spiffe-id", "spiffe://example.org/{unix:user}"),
        *("--parent-id", NODE, "--selector", "unix:uid:7"),
    )  # fmt: skip
    assert (code, "VST1404" in error) == (2, True)


async def test_what_makes_the_default_ambiguous_is_said_at_once(lab: Lab) -> None:
    first = await create(lab, "/amb/one", "amb:1", "--entry-id", "amb-1")
    assert first["warnings"] == []
    words = ("--spiffe-id", "spiffe://example.org/amb/two", "--parent-id", "spiffe://example.org/node/x")
    code, _, error = await typed(
        lab, "entry", "create", *words, "--parent-to-come", "--selector", "amb:1", "--selector", "amb:2",
        "--entry-id", "amb-2",
    )  # fmt: skip
    assert code == 0
    assert "by default it is spiffe://example.org/amb/one" in " ".join(error.split())


async def test_a_dry_run_says_what_a_file_would_make_and_makes_nothing(lab: Lab) -> None:
    old = await create(lab, "/dry/old", "dry:1", "--entry-id", "dry-old")

    def entry(path: str, *selectors: str, **more: Any) -> dict[str, Any]:
        names = {"spiffe_id": f"spiffe://example.org{path}", "parent_id": "spiffe://example.org/node/x"}
        return {**names, "selectors": list(selectors), **more}

    wanted = [
        entry("/dry/new", "dry:1", "dry:2"),
        entry("/dry/other", "dry:3"),
        entry("/dry/third", "dry:3"),
        entry("/dry/old", "dry:1"),
        entry("/dry/taken", "dry:4", entry_id="dry-old"),
        entry("/dry/partner", "dry:5", federates_with=["nobody.org"]),
    ]
    file = json.dumps({"entries": wanted})
    before = await data(lab, "entry", "count")
    code, out, error = await typed(
        lab, "entry", "create", "--data", "-", "--dry-run", "-o", "json", stdin=file
    )
    answer = json.loads(out)
    assert [each["created"] for each in answer["data"]] == [True, True, True, False]
    one, two, three, same = answer["data"]
    assert same["id"] == old["id"]
    assert one["warnings"][0]["entry_ids"] == ["dry-old"]
    assert "would be both" in one["warnings"][0]["message"]
    assert len(two["warnings"]) == len(three["warnings"]) == 1, "the file's entries are compared, too"
    assert {each["code"] for each in answer["errors"]} == {"VST8010", "VST8014"}
    assert code == 4, "some would be refused"
    assert await data(lab, "entry", "count") == before
    code, _, error = await typed(lab, "entry", "create", "--dry-run", "--spiffe-id", WEB, "--selector", "a:b")
    assert (code, "--data" in error) == (2, True)


async def test_claims_are_the_servers_to_allow(lab: Lab) -> None:
    for claim in ("team=x", "sub=x", "org_x=" + "y" * 5000):
        code, _, error = await typed(
            lab,
            *(
                "entry",
                "create",
                "--spiffe-id",
                WEB,
                "--parent-id",
                NODE,
                "--selector",
                "a:b",
                "--claim",
                claim,
            ),
        )
        assert (code, "VST1350" in error) == (2, True)


async def test_grants_are_made_listed_and_taken_back(lab: Lab) -> None:
    ops = (
        "--spiffe-id",
        "spiffe://example.org/ops",
        "--may",
        "entries",
        "--path",
        "/ns/dev",
        "--parent",
        "/node",
    )
    made = await data(lab, "admin", "grant", *ops, "--max-x509-svid-ttl", "1h", "--expires-in", "1d")
    assert (made["may"], made["max_x509_svid_ttl"]) == (["entries"], 3600)
    assert [each["id"] for each in await data(lab, "admin", "list")] == [made["id"]]
    assert await data(lab, "admin", "revoke", made["id"]) == {"id": made["id"]}
    code, _, error = await typed(lab, "admin", "revoke", made["id"])
    assert (code, "VST1357" in error) == (4, True)
    code, _, error = await typed(
        lab, "admin", "grant", "--spiffe-id", "spiffe://example.org/ops", "--may", "all"
    )
    assert (code, "VST1356" in error) == (2, True)
