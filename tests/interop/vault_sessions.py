"""What an unmodified ``hvac`` does with the secret manager, call by call; whichever way the client comes to it."""

from __future__ import annotations

from typing import Any

import hvac
import pytest
from hvac.exceptions import InvalidPath, InvalidRequest


def versioned_secrets(client: hvac.Client, folder: str) -> None:
    """All of KV v2 below ``folder`` of the mount ``secret``, where nothing is yet and the caller may do everything."""
    kv, path = client.secrets.kv.v2, f"{folder}/db"
    _written_and_read(kv, path)
    _checked(kv, path)
    _patched(kv, path)
    _deleted_and_destroyed(kv, path)
    _listed(kv, folder)
    _described(kv, path)
    _forgotten(kv, path)


def _written_and_read(kv: Any, path: str) -> None:
    with pytest.raises(InvalidPath):
        kv.read_secret_version(path, raise_on_deleted_version=True)
    written = kv.create_or_update_secret(path, secret={"password": "one", "höhe": [1, 2.5, None, {"a": "b"}]})
    assert written["data"]["version"] == 1
    assert written["request_id"]
    read = kv.read_secret_version(path, raise_on_deleted_version=True)
    assert read["data"]["data"] == {"password": "one", "höhe": [1, 2.5, None, {"a": "b"}]}
    metadata = read["data"]["metadata"]
    assert {**metadata, "created_time": ""} == {
        "created_time": "",
        "custom_metadata": None,
        "deletion_time": "",
        "destroyed": False,
        "version": 1,
    }


def _checked(kv: Any, path: str) -> None:
    with pytest.raises(InvalidRequest, match="check-and-set parameter did not match the current version"):
        kv.create_or_update_secret(path, secret={"password": "two"}, cas=0)
    kv.create_or_update_secret(path, secret={"password": "two"}, cas=1)
    assert (
        kv.read_secret_version(path, version=1, raise_on_deleted_version=True)["data"]["data"]["password"]
        == "one"
    )


def _patched(kv: Any, path: str) -> None:
    # hvac reads, merges and writes with check-and-set.
    assert kv.patch(path, secret={"user": "app"})["data"]["version"] == 3
    read = kv.read_secret_version(path, raise_on_deleted_version=True)
    assert read["data"]["data"] == {"password": "two", "user": "app"}
    with pytest.raises(InvalidPath, match="No value found"):
        kv.patch(f"{path}-missing", secret={"user": "app"})


def _deleted_and_destroyed(kv: Any, path: str) -> None:
    assert kv.delete_latest_version_of_secret(path).status_code == 204
    with pytest.raises(InvalidPath):
        kv.read_secret_version(path, raise_on_deleted_version=True)
    gone = kv.read_secret_version(path, raise_on_deleted_version=False)
    assert gone["data"]["data"] is None
    assert gone["data"]["metadata"]["deletion_time"]
    assert kv.undelete_secret_versions(path, versions=[3]).status_code == 204
    assert kv.read_secret_version(path, raise_on_deleted_version=True)["data"]["metadata"]["version"] == 3
    assert kv.delete_secret_versions(path, versions=[1, 3]).status_code == 204
    assert kv.destroy_secret_versions(path, versions=[1]).status_code == 204
    assert kv.undelete_secret_versions(path, versions=[1, 3]).status_code == 204
    destroyed = kv.read_secret_version(path, version=1, raise_on_deleted_version=False)
    assert (destroyed["data"]["data"], destroyed["data"]["metadata"]["destroyed"]) == (None, True)


def _listed(kv: Any, folder: str) -> None:
    kv.create_or_update_secret(f"{folder}/deep/er", secret={})
    assert kv.list_secrets(folder)["data"]["keys"] == ["db", "deep/"]
    assert kv.list_secrets(f"{folder}/deep/")["data"]["keys"] == ["er"]
    with pytest.raises(InvalidPath):
        kv.list_secrets(f"{folder}/nothing")


def _described(kv: Any, path: str) -> None:
    kv.update_metadata(
        path, max_versions=2, cas_required=True, delete_version_after="3h", custom_metadata={"owner": "ann"}
    )
    metadata = kv.read_secret_metadata(path)["data"]
    assert (metadata["current_version"], metadata["max_versions"], metadata["cas_required"]) == (3, 2, True)
    assert (metadata["delete_version_after"], metadata["custom_metadata"]) == ("3h0m0s", {"owner": "ann"})
    assert [*metadata["versions"]] == ["1", "2", "3"]
    assert metadata["versions"]["3"]["created_by"]["actor"].startswith("spiffe://")
    with pytest.raises(InvalidRequest, match="check-and-set parameter required for this call"):
        kv.create_or_update_secret(path, secret={})
    kv.create_or_update_secret(path, secret={"password": "four"}, cas=3)
    metadata = kv.read_secret_metadata(path)["data"]
    assert ([*metadata["versions"]], metadata["oldest_version"]) == (["3", "4"], 3)
    assert metadata["versions"]["4"]["deletion_time"]


def _forgotten(kv: Any, path: str) -> None:
    assert kv.delete_metadata_and_all_versions(path).status_code == 204
    with pytest.raises(InvalidPath):
        kv.read_secret_metadata(path)


def configured_mount(client: hvac.Client) -> None:
    """The mount's configuration, by an administrator."""
    kv = client.secrets.kv.v2
    assert kv.configure(max_versions=5, cas_required=False, delete_version_after="1h").status_code == 204
    assert kv.read_configuration()["data"] == {
        "cas_required": False,
        "delete_version_after": "1h0m0s",
        "max_versions": 5,
    }
