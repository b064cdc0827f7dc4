"""The steps of the tour about who may call what: roles, conditions, tokens, rules on trial, emergencies, revocation."""

from __future__ import annotations

import http.client
import json
import time
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from tests.tour.shop import MESH, Shop, canary, statuses, until, vestibule
from tests.tour.steps import ORDERS, step

from vestibule.pki.jwk import jwk_parameters
from vestibule.pki.jwt import UnsignedJwt
from vestibule.pki.keys import generate_key

REPORTS: Final = "spiffe://example.org/ns/prod/sa/reports"
ZONE: Final = "Europe/Paris"
ISSUER: Final = "https://tokens.example.org"
BREAK_GLASS_SECONDS: Final = (6, 20, 60)


def with_roles(more: str = "") -> dict[str, str]:
    """The mesh with a role, and more."""
    return {"mesh.yaml": MESH.replace("roles:\n", "roles:\n  guests: [reports]\n") + more}


@step("contractors get nothing on other days than theirs, and everybody else goes on")
def weekdays_only(shop: Shop, found: dict[str, Any]) -> str:
    today = _today()
    said = _shown_on(today, shop, found)
    # Where midnight has passed meanwhile, the next one is a day away.
    return said if said is not None else str(_shown_on(_today(), shop, found))


def _shown_on(today: int, shop: Shop, found: dict[str, Any]) -> str | None:
    """None if it is another day at the end."""
    others = [day for day in range(7) if day != today]
    counts = {}
    for name, days in (("other days", others), ("today too", list(range(7)))):
        when = f'!(request.time.getDayOfWeek("{ZONE}") in {days})'
        deny = f"deny: [{{id: contractors-on-their-days, from: [role:guests], when: '{when}'}}]\n"
        shop.commit(f"Contractors: {name}", canary(0) + deny, with_roles())
        counts[name] = {by: statuses(shop.calls(10, by=by)) for by in ("reports", "orders")}
    told = vestibule("explain", "reports", "payments", "GET", "/v1/charges", *shop.operator)
    shop.commit("Contractors: other days, again", canary(0) + _on(others), with_roles())
    why = vestibule("explain", "reports", "payments", "GET", "/v1/charges", *shop.operator)
    if _today() != today:
        return None
    decided = why.envelope["data"]["callee_proxy"]
    found.update(counts=counts, explained=decided["rule"], where=decided["where"], allowed_code=told.code)
    assert counts["other days"] == {"reports": {403: 10}, "orders": {200: 10}}, counts
    assert counts["today too"] == {"reports": {200: 10}, "orders": {200: 10}}, counts
    assert (told.code, why.code) == (0, 1)
    assert decided["rule"] == "payments/contractors-on-their-days", decided
    assert decided["otherwise"] == "payments/reports-read", decided
    return (
        f"{counts}; explain: {decided['rule']} ({decided['where']}), but for which {decided['otherwise']} "
        "would allow it"
    )


def _today() -> int:
    """The day of the week where the contractors are, as conditions count: Sunday is 0."""
    return int(datetime.now(ZoneInfo(ZONE)).strftime("%w"))


def _on(days: list[int]) -> str:
    when = f'!(request.time.getDayOfWeek("{ZONE}") in {days})'
    return f"deny: [{{id: contractors-on-their-days, from: [role:guests], when: '{when}'}}]\n"


@step("a call needs a token with the scope, given to its caller")
def scopes_needed(shop: Shop, found: dict[str, Any]) -> str:
    key = generate_key()
    jwk = {**jwk_parameters(key.public_key()), "kid": "tour", "use": "sig", "alg": "ES256"}
    rule = (
        "  - {id: refund, from: [orders, reports], methods: [GET], paths: [/v2/refunds],\n"
        "     token: {issuer: internal, audience: payments, scopes: ['refund:write']}}\n"
    )
    files = {
        **with_roles(f"issuers: {{internal: {{issuer: '{ISSUER}', keys: keys/internal.json}}}}\n"),
        "keys/internal.json": json.dumps({"keys": [jwk]}),
    }
    shop.commit("Refunds need a token", rule + canary(0), files)

    def token(scope: str, client: str = ORDERS, **more: Any) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": "payments",
            "sub": "user-7",
            "client_id": client,
            "scope": scope,
        }
        claims |= {"iat": now, "exp": now + 300, "jti": f"{scope}{client}", **more}
        unsigned = UnsignedJwt(key_id="tour", claims=claims, typ="at+jwt")
        return unsigned.signed(key.sign(unsigned.signing_input, ECDSA(SHA256())))

    asked = {
        "none": None,
        "right scope": token("refund:write other"),
        "wrong scope": token("refund:read"),
        "another audience": token("refund:write", aud="orders"),
        "expired": token("refund:write", exp=int(time.time()) - 3600),
        "another's": token("refund:write", REPORTS),
        "forged": token("refund:write")[:-8] + "AAAAAAAA",
    }
    got = {name: _status(shop, "/v2/refunds", each) for name, each in asked.items()}
    found.update(statuses=got)
    assert got["right scope"] == 200, got
    assert {status for name, status in got.items() if name != "right scope"} <= {401, 403}, got
    return f"{got}"


def _status(shop: Shop, path: str, token: str | None) -> int:
    host, _, port = shop.egress["orders"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    connection.request("GET", f"http://payments{path}", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


@step("a rule is tried in shadow, tells what it would deny, and then enforced")
def shadow_then_enforce(shop: Shop, found: dict[str, Any]) -> str:
    deny = "deny: [{{id: no-batch, from: [orders], paths: [/v1/batch], mode: {mode}}}]\n"
    shop.commit("No batches, in shadow", canary(0) + deny.format(mode="shadow"), with_roles())
    tried = statuses(shop.calls(7, "/v1/batch"))

    def changes() -> list[dict[str, Any]]:
        told = vestibule("policy", "shadow", shop.access_log, *shop.operator).envelope["data"]["changes"]
        return [each for each in told if each["rule"] == "payments/no-batch" and each["calls"] >= 7]

    change = until(changes, "what the rule would deny")[0]
    shop.commit("No batches", canary(0) + deny.format(mode="enforce"), with_roles())
    enforced, others = statuses(shop.calls(7, "/v1/batch")), statuses(shop.calls(7))
    found.update(in_shadow=tried, would_change=change, enforced=enforced, others=others)
    assert tried == {200: 7}, tried
    assert (change["caller"], change["now"], change["then"]) == ("orders", "allowed", "denied"), change
    assert (enforced, others) == ({403: 7}, {200: 7}), (enforced, others)
    return (
        f"in shadow {tried}, told: {change['calls']} calls would be denied; enforced {enforced}, "
        f"other paths {others}"
    )


@step("break-glass opens what no rule allows, every use is on record, and it ends by the proxies' own clock")
def break_glass_ends(shop: Shop, found: dict[str, Any]) -> str:
    shop.commit("Nothing out of the way", canary(0), with_roles())
    before = shop.call("/v2/ledger").status
    # A machine that stands still may sleep through a short one.
    opened, ends = _opened(shop, BREAK_GLASS_SECONDS[0])
    for longer in BREAK_GLASS_SECONDS[1:]:
        while time.time() < ends and shop.call("/v2/ledger").status != 200:
            time.sleep(0.02)
        if time.time() < ends:
            break
        opened, ends = _opened(shop, longer)
    last, first = 0.0, 0.0
    while not first:
        sent, status = time.time(), shop.call("/v2/ledger").status
        if status == 200:
            last = sent - ends
        elif time.time() > ends:
            first = time.time() - ends
        assert time.time() < ends + 60, "it does not end"

    def uses() -> list[dict[str, Any]]:
        told = vestibule("audit", "list", shop.audit_log, "--action", "break-glass.use").envelope["data"]
        return [each for each in told["records"] if each["subject"] == opened["rule"]]

    used = until(uses, "uses on record")
    found.update(
        before=before, rule=opened["rule"], last_allowed_s=round(last, 2), first_denied_s=round(first, 2)
    )
    found.update(uses_on_record=len(used))
    assert before == 403, before
    assert last <= 0.1, last
    return (
        f"{before} before; by {opened['rule']} 200, the last sent {last:+.2f} s from its end, the first refused "
        f"{first:+.2f} s; {len(used)} records of uses"
    )


def _opened(shop: Shop, seconds: int) -> tuple[dict[str, Any], float]:
    """What the operator is told, and when it ends."""
    words = (
        *("break-glass", "open", "--from", "orders", "--to", "payments", "--path", "/v2/ledger"),
        *("--reason", "the ledger is stuck", "--ticket", "INC-7", "--approver", "alice"),
        *("--for", f"{seconds}s", *shop.operator),
    )
    opened: dict[str, Any] = vestibule(*words).envelope["data"]
    return opened, datetime.fromisoformat(opened["expires_at"]).timestamp()


@step("a revoked caller is refused at its next request on a connection that was open all the while")
def revoked_mid_connection(shop: Shop, found: dict[str, Any]) -> str:
    host, _, port = shop.egress["reports"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)

    def status() -> tuple[int, str]:
        connection.request("GET", "http://payments/v1/charges")
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body).get("error", "")

    assert status()[0] == 200
    revoked = vestibule("revoke", "identity", REPORTS, "--note", "the tour", *shop.operator)
    assert revoked.code == 0, revoked
    began = time.monotonic()
    until(lambda: status()[0] != 200, "the refusal")
    seconds = time.monotonic() - began
    refused, others = status(), statuses(shop.calls(10))
    connection.close()
    found.update(seconds_after_the_command=round(seconds, 3), refused=list(refused), others=others)
    assert refused[0] in (401, 403), refused
    assert others == {200: 10}, others
    return (
        f"refused {seconds:.3f} s after the command returned, with {refused[0]} {refused[1]}; orders {others}"
    )
