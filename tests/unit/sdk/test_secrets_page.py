"""The programs of ``docs/secrets.md``: run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.unit.secrets.test_access import group, identity, intent, rule

from vestibule.clock import SystemClock
from vestibule.secrets.access import IntentAccess
from vestibule.secrets.versions import Actor
from vestibule.testing.vault import MemoryVault

PAGE = (Path(__file__).parents[3] / "docs" / "secrets.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
REST = """
import asyncio

told = []


def connect(username, password):
    told.append(username)


def show(key):
    told.append(key)
    raise SystemExit(0 if told[-1] == "s3cret" else 1)


asyncio.run(main())
"""


async def ran(program: str, address: str) -> tuple[int, str]:
    environment = {**os.environ, "VAULT_ADDR": address}
    environment.pop("VESTIBULE_UPSTREAM_SECRETS", None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode()


async def test_the_programs_of_the_page_do_what_it_says() -> None:
    from tests.unit.sdk.test_secrets import Leases

    rules = intent(group(rule(paths=["secret/web/banner", "database/creds/payments"], from_=["web"])))
    leases = Leases()
    vault = MemoryVault(
        IntentAccess(lambda: rules, SystemClock()),
        identity("web"),
        SystemClock(),
        {"database": leases, "sys/leases": leases},
    )
    await vault.versions.put("web/banner", {"key": "s3cret"}, Actor(name="test"))
    blocking, following = PROGRAMS
    async with vault.served() as address:
        assert await ran(blocking, address) == (0, "s3cret of version 1\nrefused: VST5300 by rule None\n")
        code, told = await ran(following + REST, address)
    assert (code, told) == (0, "")
    assert leases.revoked == ["database/creds/payments/1"]
