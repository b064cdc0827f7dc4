"""Servers of one database unseal each other."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.unit.secrets.conftest import NOW, Recording
from tests.unit.secrets.test_barrier import put
from tests.unit.secrets.test_sealing import PLAN, WHO, Lab, code

from vestibule.errors import VestibuleError
from vestibule.secrets.seals.peers import Peer, PeerAnswers, PeersSeal
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.store import Store
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

SERVER = "spiffe://example.org/spire/server"


class Reached:
    """A peer, as its door answers."""

    def __init__(self, answers: PeerAnswers) -> None:
        self.answers = answers
        self.asked: list[bytes] = []

    async def unseal(self, public_key: bytes) -> bytes:
        self.asked.append(public_key)
        return await self.answers.answer(public_key, SERVER)


class Away:
    async def unseal(self, public_key: bytes) -> bytes:
        raise OSError("connection refused")


class Liar:
    """Whoever answers for a peer, without the root key."""

    async def unseal(self, public_key: bytes) -> bytes:
        return public_key + bytes(80)


@pytest.fixture
async def unsealed(store: Store, audit: Recording, tmp_path: Path) -> Lab:
    lab = Lab(store, audit, ShamirSeal(), tmp_path / "one")
    await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a")])
    return lab


@pytest.fixture
def answers(unsealed: Lab, store: Store, audit: Recording) -> PeerAnswers:
    return PeerAnswers(unsealed.barrier, store.sealed_rows, audit)


def sealed(store: Store, audit: Recording, tmp_path: Path, *peers: Peer) -> Lab:
    return Lab(store, audit, PeersSeal(store.sealed_rows, peers), tmp_path / "two")


async def test_a_sealed_server_gets_the_root_key_from_one_that_has_it(
    store: Store, audit: Recording, tmp_path: Path, answers: PeerAnswers, path: Path
) -> None:
    peer = Reached(answers)
    lab = sealed(store, audit, tmp_path, Away(), Liar(), peer)
    assert await lab.sealing.open_by_itself()
    assert await lab.barrier.get("kv", "a") is not None
    assert await lab.barrier.verify(values=True) == ([], [])
    assert audit.actions()[-2:] == ["secrets.unseal-peer", "secrets.unseal"]
    assert audit.events[-2].actor == SERVER
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT key FROM sealed_rows WHERE key LIKE 'peer/%'").fetchall() == []
    with pytest.raises(VestibuleError) as error:
        await answers.answer(peer.asked[0], SERVER)  # its claim is gone
    assert code(error) == "VST5030"


async def test_whoever_does_not_write_to_the_database_gets_nothing(
    answers: PeerAnswers, audit: Recording
) -> None:
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    for key in (public, public[:31], b"", bytes(32)):
        with pytest.raises(VestibuleError) as error:
            await answers.answer(key, SERVER)
        assert code(error) == "VST5030"
    assert (audit.events[-1].action, audit.events[-1].outcome) == ("secrets.unseal-peer", "refused")


async def test_a_server_of_another_database_gets_nothing(
    audit: Recording, tmp_path: Path, answers: PeerAnswers
) -> None:
    elsewhere = await open_store(tmp_path / "elsewhere.db", FakeClock(NOW))
    there = Lab(elsewhere, audit, ShamirSeal(), tmp_path / "three")
    await there.sealing.init(PLAN, actor=WHO)
    lab = sealed(elsewhere, audit, tmp_path, Reached(answers))
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.open_by_itself()
    assert code(error) == "VST5014"
    await elsewhere.close()


async def test_a_peer_that_is_sealed_itself_or_cannot_record_gives_nothing(
    store: Store, audit: Recording, tmp_path: Path, answers: PeerAnswers, unsealed: Lab
) -> None:
    lab = sealed(store, audit, tmp_path, Reached(answers))
    audit.broken = True
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.open_by_itself()
    assert code(error) == "VST5014"
    audit.broken = False
    unsealed.barrier.lock()
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.open_by_itself()
    assert code(error) == "VST5014"


async def test_when_no_peer_is_unsealed_shares_are(store: Store, audit: Recording, tmp_path: Path) -> None:
    lab = sealed(store, audit, tmp_path, Away())
    assert not await lab.sealing.open_by_itself()  # people initialise
    shares = await lab.sealing.init(PLAN, actor=WHO)
    lab.barrier.lock()
    await lab.unsealed(shares[:3])
