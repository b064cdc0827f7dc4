"""``vestibule federation`` and ``vestibule bundle`` beside real servers."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from tests.component.federation_lab import Domain, domains, until
from tests.component.test_federation import healthy

from vestibule.app.main import cli
from vestibule.pki.bundles import from_bundle_map, from_jwks, to_bundle_map, to_jwks, to_pem


class Shell:
    """Commands for one server, in a thread of this process: starting a hundred programs would take minutes."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    async def __call__(self, *arguments: str, stdin: bytes | None = None) -> tuple[int, str]:
        command = [*arguments, "--server-socket", str(self._domain.socket)]
        return await asyncio.to_thread(invoke, command, stdin or b"")

    async def json(self, *arguments: str, stdin: bytes | None = None) -> Any:
        _, text = await self(*arguments, "--output", "json", stdin=stdin)
        return json.loads(text)


def invoke(command: list[str], stdin: bytes) -> tuple[int, str]:
    output = io.StringIO()
    given, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with redirect_stdout(output), redirect_stderr(output):
            code: Any = cli.main(args=command, standalone_mode=False)
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdin = given
    return int(code or 0), output.getvalue()


async def test_a_relationship_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    async with domains(east={}, west={}) as (east, west):
        shell = Shell(east)
        bundle = tmp_path / "west.pem"
        bundle.write_bytes(to_pem(await west.bundle()))
        spiffe = ("--bundle-endpoint-profile", "https_spiffe", "--endpoint-spiffe-id", west.server_id)
        code, _ = await shell("federation", "create", "west.org", "--bundle-endpoint-url", west.url)
        assert code == 2, "a profile is never guessed"
        code, text = await shell(
            *("federation", "create", "west.org", "--bundle-endpoint-url", west.url, *spiffe),
            *("--trust-domain-bundle", str(bundle)),
        )
        assert code == 0, text
        assert west.server_id in text
        await until(lambda: healthy(east, west))
        code, text = await shell("federation", "show", "west.org")
        assert code == 0
        assert "age of the bundle" in text
        shown = await shell.json("federation", "show", "west.org")
        assert shown["data"]["failures"] == 0
        assert shown["data"]["age"] >= 0
        assert shown["data"]["sequence"] == (await west.own()).sequence_number
        code, text = await shell("federation", "list")
        assert "Found 1 federation relationship" in text
        assert (await shell("federation", "refresh", "west.org"))[0] == 0
        again = await shell.json(
            "federation", "create", "west.org", "--bundle-endpoint-url", west.url, *spiffe
        )
        assert [each["code"] for each in again["errors"]] == ["VST8032"]

        moved = west.url + "elsewhere"
        assert (await shell("federation", "update", "west.org", "--bundle-endpoint-url", moved))[0] == 0
        code, text = await shell("federation", "refresh", "west.org")
        assert code == 3
        shown = await shell.json("federation", "show", "west.org")
        assert shown["data"]["problem"]["code"] == "VST2351"
        assert shown["data"]["bundle_endpoint_profile"] == "https_spiffe"

        code, text = await shell("federation", "delete", "west.org", "nobody.org", "--bundle", "restrict")
        assert code == 4
        assert (await shell.json("bundle", "list"))["data"] == []
        assert (await shell("federation", "list"))[1].strip() == "Found 0 federation relationships"


async def test_relationships_come_from_a_file_as_spires_command_takes_it(tmp_path: Path) -> None:
    async with domains(east={}, west={}) as (east, west):
        shell = Shell(east)
        items = [
            {
                "trustDomain": "west.org",
                "bundleEndpointURL": west.url,
                "bundleEndpointProfile": "https_spiffe",
                "endpointSPIFFEID": west.server_id,
                "trustDomainBundle": json.loads(to_jwks(await west.bundle())),
                "trustDomainBundleFormat": "spiffe",
            },
            {
                "trustDomain": "web.org",
                "bundleEndpointURL": "https://web.org/bundle",
                "bundleEndpointProfile": "https_web",
                "trustDomainBundle": to_pem(await west.bundle()).decode(),
                "trustDomainBundleFormat": "pem",
            },
        ]
        document = json.dumps({"federationRelationships": items}).encode()
        code, text = await shell("federation", "create", "--data", "-", stdin=document)
        assert code == 0, text
        await until(lambda: healthy(east, west))
        listed = await shell.json("federation", "list")
        assert [each["trust_domain"] for each in listed["data"]] == ["web.org", "west.org"]
        for broken in (
            b"[]",
            b"{}",
            b'{"federationRelationships": [{}]}',
            b'{"federationRelationships": [{"trustDomain": "a.org", "url": "x"}]}',
            b'{"federationRelationships": [{"trustDomain": "a.org", "bundleEndpointURL": 1}]}',
            b'{"federationRelationships": [{"trustDomain": "a.org", "bundleEndpointProfile": "http"}]}',
        ):
            code, text = await shell("federation", "create", "--data", "-", stdin=broken)
            assert code == 2, (broken, text)


@pytest.mark.parametrize("form", ["pem", "spiffe"])
async def test_bundles_are_set_listed_counted_and_deleted(form: str) -> None:
    async with domains(east={}, west={}) as (east, west):
        shell = Shell(east)
        bundle = await west.bundle()
        content = {"pem": to_pem, "spiffe": to_jwks}[form](bundle)
        assert (await shell("bundle", "count"))[1].strip() == "1"
        code, text = await shell("bundle", "set", "west.org", "--format", form, stdin=content)
        assert (code, text.strip()) == (0, "bundle of west.org set: 1 authority")
        assert (await shell("bundle", "set", "spiffe://west.org", stdin=content))[0] == 0, (
            "the form is found out"
        )
        assert (await shell("bundle", "count"))[1].strip() == "2"
        code, text = await shell("bundle", "list")
        assert "* spiffe://west.org" in text
        code, text = await shell("bundle", "list", "west.org", "--format", "spiffe")
        assert from_jwks(west.trust_domain, text.encode()).x509_authorities == bundle.x509_authorities
        code, text = await shell("bundle", "list", "--format", "spiffe")
        assert set(from_bundle_map(text.encode())) == {west.trust_domain}
        agent = await east.agent()
        entry = await east.entry(agent, "/client", "west.org")
        code, text = await shell("bundle", "delete", "west.org")
        assert code == 4
        assert "VST8030" in text
        assert (await shell("bundle", "delete", "west.org", "--mode", "dissociate"))[0] == 0
        shown = await shell.json("entry", "show", entry)
        assert shown["data"][0]["federates_with"] == []
        assert (await shell("bundle", "delete", "west.org"))[0] == 4
        code, text = await shell("bundle", "set", "east.org", stdin=content)
        assert code == 4
        assert "VST1231" in text


async def test_a_bundle_map_sets_them_all_or_is_refused(tmp_path: Path) -> None:
    async with domains(east={}, west={}, north={}) as (east, west, north):
        shell = Shell(east)
        path = tmp_path / "map.json"
        path.write_bytes(to_bundle_map([await west.bundle(), await north.bundle()]))
        assert (await shell("bundle", "set", "--map", str(path)))[0] == 0
        assert (await shell("bundle", "count"))[1].strip() == "3"
        path.write_text('{"trust_domains": {"a.org": {"keys": []}, "a.org": {"keys": []}}}')
        assert (await shell("bundle", "set", "--map", str(path)))[0] == 2
        assert (await shell("bundle", "set"))[0] == 2
        assert (await shell("bundle", "set", "a.org", "--path", str(tmp_path / "none")))[0] == 2


async def test_an_entry_is_told_whom_it_federates_with_and_that_it_does_no_longer() -> None:
    async with domains(east={}, west={}) as (east, west):
        shell = Shell(east)
        agent = await east.agent()
        entry = await east.entry(agent, "/client")
        code, text = await shell("entry", "update", entry, "--federates-with", "west.org")
        assert code == 2
        assert "VST8014" in text
        await shell("bundle", "set", "west.org", stdin=to_pem(await west.bundle()))
        assert (await shell("entry", "update", entry, "--federates-with", "west.org"))[0] == 0
        shown = await shell.json("entry", "show", entry)
        assert shown["data"][0]["federates_with"] == ["west.org"]
        assert (await shell("entry", "update", entry, "--federates-with-nobody"))[0] == 0
        shown = await shell.json("entry", "show", entry)
        assert shown["data"][0]["federates_with"] == []
