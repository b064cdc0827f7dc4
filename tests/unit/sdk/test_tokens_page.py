"""The programs of ``docs/tokens.md``: run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.unit.sdk.token_lab import WEB, a_token_service

from vestibule.testing.loopback import served

PAGE = (Path(__file__).parents[3] / "docs" / "tokens.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


class Reports:
    """Says yes, and notes what it was shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        self.shown.append(headers[b"authorization"].decode().removeprefix("Bearer "))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def test_a_program_gets_its_token_from_the_sidecar() -> None:
    reports = Reports()
    async with a_token_service() as lab, served(reports) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAMS["get_report.py"]),
            env={
                **os.environ,
                "VESTIBULE_UPSTREAM_TOKENS": lab.address,
                "VESTIBULE_UPSTREAM_REPORTS": address,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, out.decode()) == (0, "200\n")
    assert len(reports.shown) == 1
    assert lab.asked[0]["scope"] == ["report:read"]


async def test_a_service_verifies_its_callers_token_and_gives_it_in_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports = Reports()
    async with a_token_service() as lab, served(reports) as address:
        monkeypatch.setenv("VESTIBULE_UPSTREAM_TOKENS", lab.address)
        monkeypatch.setenv("VESTIBULE_UPSTREAM_REPORTS", address)
        made: dict[str, Any] = {}
        exec(compile(PROGRAMS["orders.py"], "orders.py", "exec"), made)
        async with (
            made["tokens"],
            made["reports"],
            httpx.AsyncClient(transport=httpx.ASGITransport(made["app"]), base_url="http://x") as caller,
        ):
            given = lab.issuer.token(
                sub="user-1", aud="orders", client_id=WEB, scope="order:read", act={"sub": WEB}
            )
            answer = await caller.get("/order", headers={"authorization": f"Bearer {given}"})
            assert answer.json() == {"for": "user-1", "by": [WEB], "report": 200}
            assert lab.asked[0]["subject_token"] == [given]
            assert reports.shown != [given]
            narrow = lab.issuer.token(aud="orders")
            refused = await caller.get("/order", headers={"authorization": f"Bearer {narrow}"})
            assert (refused.status_code, refused.json()["error"]) == (403, "insufficient_scope")
