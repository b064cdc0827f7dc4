"""The steps of the tour about secrets: a rotation that no call notices, and a rule that is withdrawn."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, Final

from tests.e2e.front_door import ENVIRONMENT, command
from tests.tour.shop import PATIENCE, SHOP, Answer, Shop, canary, until
from tests.tour.steps import step

SECRET: Final = "payments/tour"
RULES: Final = (SHOP / "secrets" / "payments.yaml").read_text()
RULE: Final = "  - {id: tour, from: [payments], may: [read], paths: [secret/payments/tour]}\n"
PERMITTED: Final = RULES.replace("allow:\n", "allow:\n" + RULE)
WITHDRAWN: Final = PERMITTED.replace(
    "deny:\n", "deny:\n  - {id: no-tour, from: [payments], paths: [secret/payments/tour]}\n"
)


def _put(shop: Shop, password: str) -> None:
    """``vestibule secret put``, with the value on standard input."""
    words = command("secret", "put", SECRET, "password=-", *shop.operator)
    done = subprocess.run(
        words, input=password, text=True, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr


def _read(shop: Shop) -> Answer:
    """As payments reads it, through its sidecar."""
    return shop.call(f"/v1/secret/data/{SECRET}", by="payments", to="secrets")


def _version(answer: Answer) -> int:
    return int(answer.body["data"]["metadata"]["version"]) if answer.status == 200 else 0


@step(
    "a secret is rotated while payments reads it: no read fails, and the next one sees it; a withdrawn rule ends that"
)
def secret_rotated_and_withdrawn(shop: Shop, found: dict[str, Any]) -> str:
    shop.push("Payments reads a secret of the tour", canary(0), {"secrets/payments.yaml": PERMITTED})
    _put(shop, "swordfish-1")
    until(lambda: _version(_read(shop)) == 1, lambda: str(_read(shop)))
    with shop.load(call=lambda: _read(shop)) as load:
        _put(shop, "swordfish-2")
        put = time.monotonic()
        after = _read(shop)
        took = time.monotonic() - put
    reads = list(load.answers)
    seen = sorted({_version(each) for each in reads})
    shop.push("Payments reads it no more", canary(0), {"secrets/payments.yaml": WITHDRAWN})
    refused = until(lambda: (each := _read(shop)).status == 403 and each, "the refusal")
    said = refused.body["errors"][0]
    found.update(
        reads=len(reads), failed=load.failed, versions=seen, new_after_ms=round(took * 1000), said=said
    )
    assert load.failed == 0, [each for each in reads if each.status != 200][:3]
    assert _version(after) == 2, after
    assert after.body["data"]["data"] == {"password": "swordfish-2"}
    assert "payments/no-tour" in said, said
    assert "swordfish" not in json.dumps(refused.body)
    shop.push("The rules of before", canary(0), {"secrets/payments.yaml": RULES})
    return (
        f"0 of {len(reads)} reads failed, versions {seen}; the first read after `secret put` had version 2; "
        f"after the commit: {said.split(' (request')[0]}"
    )
