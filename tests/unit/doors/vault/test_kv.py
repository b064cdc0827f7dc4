"""Versioned secrets in Vault's dialect: what each request needs, and the exact form of each answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import Answer, Caller, Operation, VaultRequest
from vestibule.errors import Kind, VestibuleError
from vestibule.secrets.ports import Verb
from vestibule.secrets.versions import Versions
from vestibule.spiffe import SpiffeId
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

CALLER = Caller(spiffe_id=SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments"))
BEGAN = "2026-01-01T00:00:00Z"
EMPTY: Mapping[str, Any] = {}


class Door:
    """Asks the backend, and runs what it makes of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.versions = Versions(MemoryBarrier(), self.clock)
        self.backend = KvBackend(self.versions)

    def operation(
        self, method: str, path: str, body: Mapping[str, Any] = EMPTY, **query: str
    ) -> Operation | None:
        return self.backend.operation(
            VaultRequest(method=method, path=path, caller=CALLER, query=query, body=body, request_id="r-1")
        )

    async def ask(self, method: str, path: str, body: Mapping[str, Any] = EMPTY, **query: str) -> Answer:
        operation = self.operation(method, path, body, **query)
        assert operation is not None
        return await operation.run()

    async def put(self, path: str = "a", **data: object) -> Answer:
        return await self.ask("POST", f"secret/data/{path}", {"data": data})


@pytest.fixture
def door() -> Door:
    return Door()


def metadata(version: int, **more: object) -> dict[str, object]:
    return {
        "created_time": BEGAN,
        "custom_metadata": None,
        "deletion_time": "",
        "destroyed": False,
        "version": version,
        **more,
    }


# ------------------------------------------------------------------------------------- what must be allowed


@pytest.mark.parametrize(
    ("method", "path", "body", "verb", "resource"),
    [
        ("GET", "data/payments/db", {}, Verb.READ, "secret/payments/db"),
        ("GET", "metadata/payments/db", {}, Verb.READ, "secret/payments/db"),
        ("GET", "subkeys/payments/db", {}, Verb.READ, "secret/payments/db"),
        ("LIST", "metadata/payments", {}, Verb.LIST, "secret/payments"),
        ("LIST", "metadata", {}, Verb.LIST, "secret"),
        ("POST", "data/payments/db", {"data": {}}, Verb.WRITE, "secret/payments/db"),
        ("PATCH", "data/payments/db", {"data": {}}, Verb.WRITE, "secret/payments/db"),
        ("DELETE", "data/payments/db", {}, Verb.WRITE, "secret/payments/db"),
        ("POST", "delete/payments/db", {"versions": [1]}, Verb.WRITE, "secret/payments/db"),
        ("POST", "undelete/payments/db", {"versions": [1]}, Verb.WRITE, "secret/payments/db"),
        ("POST", "destroy/payments/db", {"versions": [1]}, Verb.WRITE, "secret/payments/db"),
        ("POST", "rollback/payments/db", {"version": 1}, Verb.WRITE, "secret/payments/db"),
        ("POST", "metadata/payments/db", {}, Verb.WRITE, "secret/payments/db"),
        ("PATCH", "metadata/payments/db", {}, Verb.WRITE, "secret/payments/db"),
        ("DELETE", "metadata/payments/db", {}, Verb.WRITE, "secret/payments/db"),
        ("GET", "data/data/x", {}, Verb.READ, "secret/data/x"),
        ("GET", "data/config", {}, Verb.READ, "secret/config"),
    ],
)
def test_each_request_needs_a_verb_on_the_secret(
    door: Door, method: str, path: str, body: dict[str, Any], verb: Verb, resource: str
) -> None:
    operation = door.operation(method, f"secret/{path}", body)
    assert operation is not None
    assert (operation.verb, operation.resource) == (verb, resource)
    assert operation.changes == (verb is Verb.WRITE)
    assert (operation.open, operation.operators, operation.waits) == (False, False, False)


def test_the_mount_is_configured_by_operators_and_looked_at_by_all(door: Door) -> None:
    write = door.operation("POST", "secret/config", {"max_versions": 3})
    read = door.operation("GET", "secret/config")
    assert write is not None
    assert read is not None
    assert (write.operators, write.open, write.changes) == (True, False, True)
    assert (read.operators, read.open, read.changes) == (False, True, False)
    # No rule about the secret called config says anything about it.
    assert write.resource == read.resource == "sys/mounts/secret/config"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "database/creds/a"),
        ("POST", "secrets/data/a"),
        ("LIST", "secret/data/a"),
        ("PATCH", "secret/config"),
    ],
)
def test_other_paths_are_not_ours(door: Door, method: str, path: str) -> None:
    assert door.operation(method, path, {"data": {}}) is None


@pytest.mark.parametrize("path", ["a/../b", "a%2fb", "a\x00", "cafe\u0301", "..", "a*"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_odd_paths_are_refused_before_anybody_is_asked(door: Door, method: str, path: str) -> None:
    with pytest.raises(VestibuleError) as refused:
        door.operation(method, f"secret/data/{path}", {"data": {}})
    assert refused.value.code.kind is Kind.INVALID


async def test_a_request_for_the_other_kind_of_engine_is_told_so(door: Door) -> None:
    answer = await door.ask("GET", "secret/payments/db")
    assert (answer.status, answer.data) == (404, None)
    assert answer.warnings[0].startswith("Invalid path for a versioned K/V secrets engine")
    assert "`vault kv get`" in answer.warnings[0]
    for path in ("secret/data", "secret/undelete"):
        answer = await door.ask("POST", path)
        assert answer.warnings == ("Non-listing operations on the root of a K/V v2 mount are not supported.",)


# -------------------------------------------------------------------------------------------------- data


async def test_a_write_and_a_read(door: Door) -> None:
    written = await door.put(password="s3cret")
    assert (written.status, written.data, written.detail) == (0, metadata(1), {"version": 1})
    read = await door.ask("GET", "secret/data/a")
    assert read.data == {"data": {"password": "s3cret"}, "metadata": metadata(1)}
    assert (read.status, read.detail) == (0, {"version": 1})
    assert "s3cret" not in repr(read)


async def test_a_read_of_one_version(door: Door) -> None:
    await door.put(n=1)
    await door.put(n=2)
    for version, held in (("1", 1), ("2", 2), ("0", 2), ("", 2)):
        answer = await door.ask("GET", "secret/data/a", version=version)
        assert answer.data is not None
        assert answer.data["data"] == {"n": held}
    assert (await door.ask("GET", "secret/data/a", version="3")).status == 404


async def test_what_is_not_there_is_404_with_nothing(door: Door) -> None:
    for method, path, body in (
        ("GET", "data/no", {}),
        ("GET", "metadata/no", {}),
        ("GET", "subkeys/no", {}),
        ("LIST", "metadata/no", {}),
        ("LIST", "metadata", {}),
        ("PATCH", "data/no", {"data": {}}),
        ("PATCH", "metadata/no", {"max_versions": 1}),
    ):
        answer = await door.ask(method, f"secret/{path}", body)
        assert (answer.status, answer.data, answer.warnings) == (404, None, ())


async def test_what_is_deleted_is_404_with_what_is_known(door: Door) -> None:
    await door.put(n=1)
    deleted = await door.ask("DELETE", "secret/data/a")
    assert (deleted.status, deleted.data) == (0, None)
    answer = await door.ask("GET", "secret/data/a")
    assert (answer.status, answer.data) == (404, {"data": None, "metadata": metadata(1, deletion_time=BEGAN)})
    patched = await door.ask("PATCH", "secret/data/a", {"data": {"n": 2}})
    assert (patched.status, patched.data) == (404, metadata(1, deletion_time=BEGAN))
    subkeys = await door.ask("GET", "secret/subkeys/a")
    assert (subkeys.status, subkeys.data) == (
        404,
        {"subkeys": None, "metadata": metadata(1, deletion_time=BEGAN)},
    )


async def test_what_is_destroyed_is_404_with_what_is_known(door: Door) -> None:
    await door.put(n=1)
    await door.ask("POST", "secret/destroy/a", {"versions": [1]})
    answer = await door.ask("GET", "secret/data/a")
    assert (answer.status, answer.data) == (404, {"data": None, "metadata": metadata(1, destroyed=True)})


@pytest.mark.parametrize("versions", [[1, 2], ["1", "2"], "1,2", "1, 2"])
async def test_versions_are_named_as_vault_takes_them(door: Door, versions: object) -> None:
    await door.put(n=1)
    await door.put(n=2)
    for kind, status in (("delete", 404), ("undelete", 0), ("destroy", 404)):
        answer = await door.ask("POST", f"secret/{kind}/a", {"versions": versions})
        assert (answer.status, answer.data) == (0, None)
        for version in ("1", "2"):
            assert (await door.ask("GET", "secret/data/a", version=version)).status == status


@pytest.mark.parametrize(
    "body", [{}, {"versions": []}, {"versions": ""}, {"versions": ["x"]}, {"versions": {}}]
)
@pytest.mark.parametrize("kind", ["delete", "undelete", "destroy"])
def test_versions_must_be_named(door: Door, kind: str, body: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError, match="No version number provided"):
        door.operation("POST", f"secret/{kind}/a", body)


async def test_check_and_set_that_does_not_match_is_a_bad_request(door: Door) -> None:
    await door.put(n=1)
    for method, cas in (("POST", 0), ("POST", "7"), ("PATCH", 2)):
        with pytest.raises(VestibuleError) as refused:
            await door.ask(method, "secret/data/a", {"data": {}, "options": {"cas": cas}})
        assert refused.value.message == "check-and-set parameter did not match the current version"
        assert refused.value.code.kind is Kind.INVALID
    await door.ask("POST", "secret/data/a", {"data": {}, "options": {"cas": "1"}})


async def test_check_and_set_may_be_required(door: Door) -> None:
    await door.ask("POST", "secret/metadata/a", {"cas_required": True})
    with pytest.raises(VestibuleError, match="check-and-set parameter required for this call"):
        await door.put(n=1)
    await door.ask("POST", "secret/data/a", {"data": {}, "options": {"cas": 0}})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "no data provided"),
        ({"options": {"cas": 0}}, "no data provided"),
        ({"data": "text"}, "not an object"),
        ({"data": None}, "not an object"),
        ({"data": {}, "options": []}, "options is not an object"),
        ({"data": {}, "options": {"cas": "x"}}, "error parsing check-and-set parameter"),
        ({"data": {}, "options": {"cas": -1}}, "error parsing check-and-set parameter"),
        ({"data": {}, "options": {"cas": None}}, "error parsing check-and-set parameter"),
        ({"data": {}, "options": {"cas": 1.5}}, "error parsing check-and-set parameter"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_write_that_makes_no_sense_is_refused(
    door: Door, method: str, body: dict[str, Any], reason: str
) -> None:
    with pytest.raises(VestibuleError, match=reason) as refused:
        door.operation(method, "secret/data/a", body)
    assert refused.value.code.kind is Kind.INVALID


async def test_a_patch_merges(door: Door) -> None:
    await door.put(a=1, b=2)
    answer = await door.ask("PATCH", "secret/data/a", {"data": {"a": None, "c": 3}, "options": {"cas": 1}})
    assert (answer.status, answer.data) == (0, metadata(2))
    read = await door.ask("GET", "secret/data/a")
    assert read.data is not None
    assert read.data["data"] == {"b": 2, "c": 3}


async def test_the_names_inside_a_secret(door: Door) -> None:
    await door.put(user="u", nested={"deep": {"er": 1}})
    answer = await door.ask("GET", "secret/subkeys/a")
    assert answer.data == {
        "subkeys": {"user": None, "nested": {"deep": {"er": None}}},
        "metadata": metadata(1),
    }
    answer = await door.ask("GET", "secret/subkeys/a", depth="1", version="1")
    assert answer.data is not None
    assert answer.data["subkeys"] == {"user": None, "nested": None}


async def test_an_older_version_comes_back(door: Door) -> None:
    await door.put(n=1)
    await door.put(n=2)
    answer = await door.ask("POST", "secret/rollback/a", {"version": 1, "options": {"cas": 2}})
    assert (answer.data, answer.detail) == (metadata(3), {"version": 3})
    read = await door.ask("GET", "secret/data/a")
    assert read.data is not None
    assert read.data["data"] == {"n": 1}
    with pytest.raises(VestibuleError, match="No version number provided"):
        door.operation("POST", "secret/rollback/a")


async def test_a_read_may_wait_for_a_newer_version(door: Door) -> None:
    await door.put(n=1)
    operation = door.operation("GET", "secret/data/a", wait_newer="1", wait="1ms")
    assert operation is not None
    # Who may no longer read when it comes must not get it.
    assert (operation.waits, operation.verb, operation.resource) == (True, Verb.READ, "secret/a")
    answer = await operation.run()
    assert answer.data is not None
    assert answer.data["data"] == {"n": 1}
    await door.put(n=2)
    answer = await door.ask("GET", "secret/data/a", wait_newer="1")
    assert answer.detail == {"version": 2}


@pytest.mark.parametrize(
    "query", [{"version": "x"}, {"version": "-1"}, {"wait_newer": "x"}, {"wait_newer": "1", "wait": "x"}]
)
def test_a_read_that_makes_no_sense_is_refused(door: Door, query: dict[str, str]) -> None:
    with pytest.raises(VestibuleError) as refused:
        door.operation("GET", "secret/data/a", EMPTY, **query)
    assert refused.value.code.kind is Kind.INVALID


# ---------------------------------------------------------------------------------------------- metadata


async def test_what_is_known_of_a_secret(door: Door) -> None:
    answer = await door.ask(
        "POST",
        "secret/metadata/a",
        {
            "max_versions": 5,
            "cas_required": False,
            "delete_version_after": "3h25m19s",
            "custom_metadata": {"owner": "ann"},
        },
    )
    assert (answer.status, answer.data) == (0, None)
    await door.put(n=1)
    actor = {"actor": str(CALLER.spiffe_id), "request_id": "r-1"}
    read = await door.ask("GET", "secret/metadata/a")
    assert read.data == {
        "cas_required": False,
        "created_time": BEGAN,
        "current_version": 1,
        "custom_metadata": {"owner": "ann"},
        "delete_version_after": "3h25m19s",
        "last_updated_by": actor,
        "max_versions": 5,
        "oldest_version": 0,
        "updated_time": BEGAN,
        "versions": {
            "1": {
                "created_by": actor,
                "created_time": BEGAN,
                "deleted_by": None,
                "deletion_time": "2026-01-01T03:25:19Z",
                "destroyed": False,
            }
        },
    }


async def test_metadata_are_patched(door: Door) -> None:
    await door.ask(
        "POST", "secret/metadata/a", {"max_versions": 5, "custom_metadata": {"owner": "ann", "app": "web"}}
    )
    answer = await door.ask(
        "PATCH", "secret/metadata/a", {"custom_metadata": {"app": None, "n": 7, "b": True}}
    )
    assert (answer.status, answer.data) == (0, None)
    read = await door.ask("GET", "secret/metadata/a")
    assert read.data is not None
    assert read.data["custom_metadata"] == {"owner": "ann", "n": "7", "b": "1"}
    assert read.data["max_versions"] == 5


async def test_metadata_that_say_nothing_change_nothing(door: Door) -> None:
    assert (await door.ask("POST", "secret/metadata/a", {})).data is None
    assert await door.versions.metadata("a") is None


@pytest.mark.parametrize(
    "body",
    [
        {"max_versions": -1},
        {"max_versions": 1001},
        {"max_versions": "many"},
        {"cas_required": "maybe"},
        {"delete_version_after": "soon"},
        {"delete_version_after": "-1s"},
        {"custom_metadata": []},
        {"custom_metadata": {"a": {}}},
        {"custom_metadata": {"a": ""}},
        {"custom_metadata": {"a": None}},
        {"custom_metadata": {"a" * 129: "b"}},
    ],
)
async def test_metadata_out_of_bounds_are_refused(door: Door, body: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError) as refused:
        await door.ask("POST", "secret/metadata/a", body)
    assert refused.value.code.kind is Kind.INVALID
    assert await door.versions.metadata("a") is None


async def test_a_secret_is_forgotten(door: Door) -> None:
    await door.put(n=1)
    answer = await door.ask("DELETE", "secret/metadata/a")
    assert (answer.status, answer.data) == (0, None)
    assert (await door.ask("GET", "secret/metadata/a")).status == 404


async def test_folders_are_listed(door: Door) -> None:
    for path in ("a", "b/c", "b/d/e"):
        await door.put(path, n=1)
    assert (await door.ask("LIST", "secret/metadata")).data == {"keys": ["a", "b/"]}
    answer = await door.ask("LIST", "secret/metadata/b")
    assert (answer.data, answer.detail) == ({"keys": ["c", "d/"]}, {"keys": 2})
    assert (await door.ask("LIST", "secret/metadata/b", after="c", limit="5")).data == {"keys": ["d/"]}


# ------------------------------------------------------------------------------------------------- mount


async def test_the_mount_is_configured(door: Door) -> None:
    read = await door.ask("GET", "secret/config")
    assert read.data == {"cas_required": False, "delete_version_after": "0s", "max_versions": 0}
    for after, shown in (("-1s", "-1s"), ("90m", "1h30m0s"), (30, "30s"), ("0s", "0s")):
        answer = await door.ask(
            "POST",
            "secret/config",
            {"max_versions": 3, "cas_required": True, "delete_version_after": after},
        )
        assert (answer.status, answer.data) == (0, None)
        read = await door.ask("GET", "secret/config")
        assert read.data == {"cas_required": True, "delete_version_after": shown, "max_versions": 3}


async def test_what_the_mount_mandates_no_secret_can_lift(door: Door) -> None:
    await door.ask("POST", "secret/config", {"cas_required": True})
    for method in ("POST", "PATCH"):
        answer = await door.ask(method, "secret/metadata/a", {"cas_required": False})
        assert answer.warnings == (
            '"cas_required" set to false, but is mandated by backend config. This value will be ignored.',
        )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    "data",
    "options",
    "versions",
    "version",
    "max_versions",
    "cas_required",
    "delete_version_after",
    "custom_metadata",
)
BODIES = st.dictionaries(
    st.sampled_from(FIELDS),
    JSON
    | st.fixed_dictionaries({"cas": JSON})
    | st.lists(st.integers(-1, 3))
    | st.sampled_from(["1", "-1s", "9" * 30]),
)
QUERIES = st.dictionaries(
    st.sampled_from(["version", "depth", "after", "limit", "wait"]),
    st.text(max_size=4) | st.integers(-1, 3).map(str),
    max_size=2,
)
KINDS = ("data", "metadata", "subkeys", "delete", "undelete", "destroy", "rollback", "config", "other", "")
REQUESTS = st.tuples(
    st.sampled_from(["GET", "POST", "PATCH", "DELETE", "LIST"]),
    st.builds(
        "secret/{}/{}".format, st.sampled_from(KINDS), st.sampled_from(["", "a", "a/b", "..", "é", "a//b"])
    ),
    BODIES,
    QUERIES,
)


@given(st.lists(REQUESTS, max_size=12))
async def test_whatever_is_sent_is_answered_or_refused(
    requests: list[tuple[str, str, dict[str, Any], dict[str, str]]],
) -> None:
    door = Door()
    await door.put(n=1)
    refused = []
    for method, path, body, query in requests:
        try:
            operation = door.operation(method, path, body, **query)
            answer = Answer() if operation is None else await operation.run()
        except VestibuleError as error:
            refused.append(error.code)
            continue
        assert answer.status in (0, 404)
        json.dumps(answer.data)
    assert {each.kind for each in refused} <= {Kind.INVALID, Kind.NOT_FOUND}
