"""py-spiffe below a nested server: certificates that bring an intermediate along, and tokens of both levels."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any, Final

from tests.component.test_nested import Nested, nested
from tests.interop.test_spiffe_client import CONTEXT

__all__ = ["nested"]

TOKENS: Final = """
import json, sys
from spiffe import JwtSvid, TrustDomain, WorkloadApiClient
mine, other = (WorkloadApiClient("unix://" + path) for path in sys.argv[1:])
svid = mine.fetch_jwt_svid(audience={"db"})
bundle = other.fetch_jwt_bundles().get_bundle_for_trust_domain(TrustDomain("example.org"))
verified = JwtSvid.parse_and_validate(svid.token, bundle, {"db"})
print(json.dumps({"id": str(verified.spiffe_id), "theirs": str(other.validate_jwt_svid(svid.token, "db").spiffe_id)}))
"""


async def python(script: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", script, *arguments]
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


async def test_a_chain_with_an_intermediate_is_read_and_its_bundle_has_the_root_alone(nested: Nested) -> None:
    found = await python(CONTEXT, str(nested.low.settings.socket_path))
    assert found["ids"] == ["spiffe://example.org/low"]
    assert (found["chain"], found["authorities"], found["same"]) == (2, 1, True)


async def test_tokens_of_each_level_are_verified_at_the_other(nested: Nested) -> None:
    low, top = (str(each.settings.socket_path) for each in (nested.low, nested.top))
    for mine, other, path in ((low, top, "low"), (top, low, "top")):
        found = await python(TOKENS, mine, other)
        assert found == dict.fromkeys(("id", "theirs"), f"spiffe://example.org/{path}")
