"""Planted secrets are nowhere in clear: not on the disk, not in logs or the audit log, not in the process list."""

from __future__ import annotations

import base64
import logging
import os
import secrets
from pathlib import Path

import pytest
from tests.unit.secrets.conftest import NOW
from tests.unit.secrets.test_barrier import put, tamper
from tests.unit.secrets.test_sealing import PLAN, WHO

from vestibule.audit import AuditLog
from vestibule.errors import VestibuleError
from vestibule.keys.secrets import Secret
from vestibule.secrets.anchor import Anchors, AuditAnchor, FileAnchor
from vestibule.secrets.backups import Passphrase
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.sealing import Sealing
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.store import Store
from vestibule.store.barrier import Put
from vestibule.testing import FakeClock


def forms(secret: bytes) -> list[bytes]:
    return [secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), repr(secret)[2:-1].encode()]


async def test_nothing_that_was_planted_is_found_anywhere(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    audit = AuditLog(path.parent / "audit.jsonl", FakeClock(NOW))
    await audit.open()
    barrier = SealedBarrier(store.sealed_rows, store.changes, audit)
    anchor = Anchors([FileAnchor(path.parent / "generation"), AuditAnchor(path.parent / "audit.jsonl")])
    sealing = Sealing(barrier, ShamirSeal(), audit=audit, anchor=anchor, leads=lambda: True)

    planted = [b"canary-" + secrets.token_hex(8).encode() for _ in range(30)]
    passphrase = "canary-" + secrets.token_hex(8)
    shares = list(await sealing.init(PLAN, actor=WHO))
    roots = [barrier.root_key]
    for number, value in enumerate(planted):
        await barrier.apply(
            [put(f"{number}", value), Put(space="database", key=f"{number}", value=value * 500)]
        )
    said = []
    tamper(path, "UPDATE sealed_rows SET key_id = 9 WHERE key = '3' AND space = 'kv'")
    for attempt in (barrier.get("kv", "3"), barrier.apply([put("1", planted[1], expected=77)])):
        with pytest.raises(VestibuleError) as error:
            await attempt
        said.append(repr(error.value) + str(error.value) + error.value.advice)
    await sealing.rotate_data_key(actor=WHO)
    await barrier.reencrypt()
    status = await sealing.rekey(PLAN, actor=WHO, rotate_root=True)
    for share in shares[:3]:
        status = await sealing.rekey_share(status.nonce, share, actor="local:uid=1000")
    shares += status.shares
    roots.append(barrier.root_key)
    backup = sealing.backup(Passphrase(Secret(passphrase)), actor=WHO, now=NOW, findings=[])
    (path.parent / "backup").write_bytes(b"".join([piece async for piece in backup]))
    await sealing.seal(actor=WHO)
    for share in status.shares[:3]:
        said.append(repr(await sealing.unseal(share, actor=WHO)))
    said += [repr(status), repr(sealing.__dict__), repr(barrier.__dict__), caplog.text]
    await audit.close()

    files = [file for file in path.parent.rglob("*") if file.is_file()]
    assert any(file.name.endswith("-wal") for file in files)
    looked = b"\n".join([*(file.read_bytes() for file in files), *map(str.encode, said)])
    looked += Path(f"/proc/{os.getpid()}/cmdline").read_bytes()
    for secret in (*planted, passphrase.encode(), *roots, *shares, *(share[:-1] for share in shares)):
        for form in forms(secret):
            assert form not in looked
