"""The upstream whose certificate and key are files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.identity.ca.lab import DOMAIN, NOW, Asking, Recorded, RootLab

from vestibule.errors import VestibuleError
from vestibule.identity.ca.disk import DiskUpstream
from vestibule.keys.files import write_private
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.pki.pem import pem_block
from vestibule.testing import FakeClock

DAY = timedelta(days=1)


class Scene:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock(NOW)
        self.audit = Recorded()
        self.lab = RootLab(path / "root")
        self.chain, self.key = path / "chain.pem", path / "key.pem"

    def upstream(self, roots: bool = True) -> DiskUpstream:
        given = self.lab.pem if roots else None
        return DiskUpstream(self.chain, self.key, given, DOMAIN, self.audit, self.clock)

    async def issued(self, name: str, *, with_root: bool = False) -> None:
        asking, key = Asking(self.path / name), generate_key()
        asking.keys.hold(name, key)
        answer = await self.lab.answers(await asking.asks(name, key=False))
        self.chain.write_bytes(answer + (self.lab.pem.read_bytes() if with_root else b""))
        write_private(self.key, pem_block("PRIVATE KEY", key_to_pkcs8(key)))


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    await made.lab.made()
    await made.issued("first")
    return made


async def mint(upstream: DiskUpstream) -> tuple[bytes, ...]:
    return (await upstream.mint(make_csr(generate_key(), DOMAIN.id), DAY)).chain


async def test_new_files_are_used_without_a_restart(scene: Scene) -> None:
    upstream = scene.upstream()
    first = await mint(upstream)
    await scene.issued("second")
    second = await mint(upstream)
    assert first[1] != second[1]
    assert scene.audit.actions == ["intermediate.sign"] * 2


async def test_without_a_file_of_roots_the_chain_ends_with_the_root(scene: Scene) -> None:
    await scene.issued("whole", with_root=True)
    minted = await scene.upstream(roots=False).mint(make_csr(generate_key(), DOMAIN.id), DAY)
    assert minted.roots == (scene.lab.der,)
    assert len(minted.chain) == 2


async def test_a_key_that_others_may_read_is_refused(scene: Scene) -> None:
    scene.key.chmod(0o640)
    with pytest.raises(VestibuleError, match="VST1386"):
        await mint(scene.upstream())


async def test_files_that_do_not_belong_together_are_refused(scene: Scene) -> None:
    key = generate_key()
    write_private(scene.key, pem_block("PRIVATE KEY", key_to_pkcs8(key)))
    with pytest.raises(VestibuleError, match=r"VST1386.*another key"):
        await mint(scene.upstream())


@pytest.mark.parametrize("junk", [b"", b"junk", pem_block("PRIVATE KEY", b"junk")])
async def test_a_file_that_holds_something_else_is_named(scene: Scene, junk: bytes) -> None:
    upstream = scene.upstream()
    write_private(scene.key, junk)
    with pytest.raises(VestibuleError, match="VST1386"):
        await mint(upstream)
    scene.chain.unlink()
    with pytest.raises(VestibuleError, match="VST1386"):
        await mint(upstream)


async def test_an_expired_intermediate_is_named(scene: Scene) -> None:
    scene.clock.advance(101 * DAY)
    with pytest.raises(VestibuleError, match="VST1386"):
        await mint(scene.upstream())


async def test_without_a_record_nothing_is_signed(scene: Scene) -> None:
    scene.audit.broken = OSError("full")
    with pytest.raises(OSError, match="full"):
        await mint(scene.upstream())
