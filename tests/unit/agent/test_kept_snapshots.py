"""Sealed configurations on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.xds.conversation import world

from vestibule.agent.kept_snapshots import KEPT_SECONDS, KeptSnapshots
from vestibule.errors import VestibuleError
from vestibule.keys import Sealer
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import CLUSTER, EXTENSION, LISTENER, ProxyKey, Snapshot

WEB = ProxyKey(SpiffeId.parse("spiffe://example.org/ns/prod/sa/web"), "web-1")
OTHER = ProxyKey(SpiffeId.parse("spiffe://example.org/ns/prod/sa/web"), "web-2")
FULL = world("v1", cds="a b", eds="a", ecds="rbac")


def kept(directory: Path, key: bytes = b"k" * 32) -> KeptSnapshots:
    return KeptSnapshots(directory / "relay", Sealer(key))


def test_what_was_saved_is_loaded_whole(tmp_path: Path) -> None:
    partial = Snapshot(FULL.version, FULL.resources, known=frozenset({CLUSTER, EXTENSION, LISTENER}))
    kept(tmp_path).save(WEB, partial)
    loaded = kept(tmp_path).load(WEB)
    assert loaded is not None
    assert loaded.version == "v1"
    assert dict(loaded.of_type(CLUSTER)) == dict(FULL.of_type(CLUSTER))
    assert loaded.known == frozenset({CLUSTER, EXTENSION, LISTENER})
    assert kept(tmp_path).load(OTHER) is None


def test_files_are_private_and_tell_nothing(tmp_path: Path) -> None:
    kept(tmp_path).save(WEB, FULL)
    (path,) = (tmp_path / "relay").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert "web" not in path.name
    assert b"rbac" not in path.read_bytes()


def test_a_file_opens_only_for_its_own_proxy_and_key(tmp_path: Path) -> None:
    ours = kept(tmp_path)
    ours.save(WEB, FULL)
    ours.save(OTHER, world("v2"))
    ours._path(WEB).write_bytes(ours._path(OTHER).read_bytes())
    with pytest.raises(VestibuleError, match="cannot be read"):
        ours.load(WEB)
    # It was set aside: the next look finds nothing, and does not fail again.
    assert ours.load(WEB) is None
    with pytest.raises(VestibuleError, match="cannot be read"):
        kept(tmp_path, b"x" * 32).load(OTHER)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = kept(tmp_path)
    ours.save(WEB, FULL)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ours.save(WEB, world("v2"))
    loaded = ours.load(WEB)
    assert loaded is not None
    assert loaded.version == "v1"
    assert len(list((tmp_path / "relay").iterdir())) == 1


def test_files_of_proxies_that_are_long_gone_are_removed(tmp_path: Path) -> None:
    ours = kept(tmp_path)
    ours.prune()
    ours.save(WEB, FULL)
    left_behind = tmp_path / "relay" / ".new-interrupted"
    left_behind.touch()
    now = ours._path(WEB).stat().st_mtime
    ours.prune(now + KEPT_SECONDS / 2)
    assert not left_behind.exists()
    assert ours.load(WEB) is not None
    ours.prune(now + KEPT_SECONDS * 2)
    assert ours.load(WEB) is None
    ours.save(OTHER, FULL)
    ours.forget(OTHER)
    ours.forget(OTHER)
    assert ours.load(OTHER) is None
