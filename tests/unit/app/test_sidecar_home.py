"""Clearing up after dead sidecars, while others start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vestibule.app.sidecar_home import alive, clear_up, remove_homes
from vestibule.processes import Ledger
from vestibule.proxy import nftables


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """As a sidecar does it: the directory is taken, and then a home is made for whom its Envoy runs as."""
    open_: list[Ledger] = []

    def start(name: str) -> Path:
        (ledger := Ledger(tmp_path / "sc" / name)).open()
        open_.append(ledger)
        (home := tmp_path / "px" / name).mkdir(parents=True)
        return home

    yield start
    for ledger in open_:
        ledger.close(remove=True)


def test_homes_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, start: Callable[[str], Path]
) -> None:
    home = start("living")
    (dead := tmp_path / "px" / "dead").mkdir()
    clear_up(tmp_path, tmp_path / "sc")
    assert home.is_dir()
    assert not dead.exists()


def test_a_sidecar_that_starts_while_another_clears_up_keeps_its_home(
    tmp_path: Path, start: Callable[[str], Path]
) -> None:
    started: list[Path] = []

    def look() -> set[str]:
        living = alive(tmp_path / "sc")
        started.append(start("new"))
        return living

    start("old")
    remove_homes(tmp_path, look)
    assert started[0].is_dir()


def test_a_sidecar_that_starts_while_another_clears_up_keeps_its_packet_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, living = ["vestibule_0_stranger"], {"old"}

    def name(owner: str) -> str:
        return nftables.Table(run_directory=tmp_path, owner=owner).name

    def look() -> set[str]:
        seen = set(living)
        living.add("new")
        tables.append(name("new"))
        return seen

    removed: list[str] = []
    monkeypatch.setattr(nftables, "_tables", lambda: list(tables))
    monkeypatch.setattr(nftables, "nft", removed.append)
    tables += [name("old"), name("dead")]
    assert nftables.sweep(tmp_path, look) == [name("dead")]
    assert len(removed) == 1
