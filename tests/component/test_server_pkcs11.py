"""A server whose authorities' keys are in a token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.component.server_lab import short_directory
from tests.component.test_server_process import arguments, finished, server

from vestibule.testing.softhsm import PIN, SoftToken, softhsm_module

MODULE = softhsm_module()
pytestmark = pytest.mark.skipif(MODULE is None, reason="SoftHSM2 is not installed")


def in_token(token: SoftToken, *more: str) -> tuple[str, ...]:
    return ("--keys", "pkcs11", "--pkcs11-module", str(MODULE), "--pkcs11-token", token.label, *more)


def authorities(directory: Path) -> list[tuple[str, str]]:
    records = map(json.loads, (directory / "data" / "audit.jsonl").read_text().splitlines())
    return [(each["action"], each["subject"]) for each in records if each["action"].startswith("authority.")]


async def test_servers_keep_their_authorities_in_one_token_and_leave_each_others_alone() -> None:
    with short_directory() as one, short_directory() as two:
        token = SoftToken(one / "token")
        options = in_token(token, "--pkcs11-pin-file", str(token.pin_file))
        async with server(one, *options) as (process, line):
            assert line.startswith("vestibule server ready:")
            assert PIN not in Path(f"/proc/{process.pid}/cmdline").read_text()
            first = authorities(one)
        assert {action for action, _ in first} >= {"authority.prepare", "authority.activate"}
        assert not (one / "data" / "keys").exists()
        for directory in (two, one):
            async with server(directory, *options) as (_, line):
                assert line.startswith("vestibule server ready:")
        assert authorities(one) == first


async def test_without_its_token_or_with_a_wrong_pin_a_server_says_so() -> None:
    with short_directory() as directory:
        token = SoftToken(directory / "token")
        options = in_token(token, "--pkcs11-pin-file", str(token.pin_file))
        token.pin_file.write_text("0000\n")
        code, _, err = await finished(*arguments(directory, *options))
        assert (code, "VST1107" in err, "0000" in err) == (4, True, False)
        token.pin_file.write_text(PIN + "\n")
        token.store.rename(directory / "away")
        code, _, err = await finished(*arguments(directory, *options))
        assert (code, "VST1106" in err) == (3, True)
