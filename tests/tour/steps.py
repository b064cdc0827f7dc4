"""The steps of the tour: each makes a commit, calls, and compares what was measured with what is claimed."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import sqrt
from pathlib import Path
from typing import Any, Final

from tests.e2e.outside_lab import PublicAuthority
from tests.tour.shop import MESH, PAYMENTS, Shop, canary, places, statuses, until, vestibule

from vestibule.cli.calls import count
from vestibule.proxy.binary import find_envoy

ORDERS: Final = "spiffe://example.org/ns/prod/sa/orders"
CALLS: Final = 300
DEVIATIONS: Final = 4.5
"""How far a share may be from its weight: by chance further once in 150,000 tries."""


@dataclass(slots=True, kw_only=True)
class Step:
    """What is claimed; ``do`` measures it into ``found`` and says it in a sentence."""

    id: str
    claim: str
    do: Callable[[Shop, dict[str, Any]], str]


STEPS: Final[list[Step]] = []


def step(claim: str) -> Callable[[Callable[[Shop, dict[str, Any]], str]], None]:
    """The next step of the tour; it is called as its function is."""

    def add(do: Callable[[Shop, dict[str, Any]], str]) -> None:
        STEPS.append(Step(id=do.__name__.replace("_", "-"), claim=claim, do=do))

    return add


def tolerance(calls: int, percent: int) -> float:
    """How many calls more or less than ``percent`` of them chance allows."""
    return DEVIATIONS * sqrt(calls * percent * (100 - percent)) / 100


@step("commits move v2 from 0 to 10, 50 and 100 %, calls follow the weights, and none fails")
def canary_moves(shop: Shop, found: dict[str, Any]) -> str:
    shares: dict[int, float] = {}
    seconds: list[float] = []
    with shop.load() as load:
        for weight in (0, 10, 50, 100):
            if weight:
                seconds.append(shop.commit(f"{weight} % of payments go to v2", canary(weight)))
            answers = shop.calls(CALLS)
            assert statuses(answers) == {200: CALLS}, statuses(answers)
            got = sum(each.place == "v2-near" for each in answers)
            shares[weight] = round(100 * got / CALLS, 1)
            assert abs(got - CALLS * weight / 100) <= tolerance(CALLS, weight), (weight, places(answers))
    found.update(
        calls=CALLS, percent_to_v2=shares, seconds_to_all_proxies=[round(each, 2) for each in seconds]
    )
    found.update(calls_meanwhile=len(load.answers), failed_meanwhile=load.failed)
    assert load.failed == 0, [each for each in load.answers if each.status != 200][:3]
    told = ", ".join(f"{weight} % → {share:g} %" for weight, share in shares.items())
    return (
        f"{told} of {CALLS} calls each; at all proxies {max(seconds):.2f} s after the commit at most; "
        f"0 of {len(load.answers)} calls beside it failed"
    )


@step("calls stay in their region while it is well, go to the other one when it is not, and come back")
def locality_fails_over(shop: Shop, found: dict[str, Any]) -> str:
    with shop.far.instance():
        health = "health: {http: /healthz, every: 500ms, timeout: 500ms, unhealthy: 2}\n"
        shop.commit("Stay near", canary(0) + health + "locality: {prefer: region, failover: [us-east]}\n")

        def all_go(place: str) -> bool:
            return set(places(shop.calls(10))) == {place}

        until(lambda: all_go("v1-near"), "calls stay near")
        before, began = shop.calls(40), time.monotonic()
        with shop.load() as load:
            shop.make_ill("v1-near")
            until(lambda: all_go("v1-far"), lambda: str(places(shop.calls(10))))
            away, over = time.monotonic() - began, shop.calls(40)
            shop.make_ill("v1-near", False)
            until(lambda: all_go("v1-near"), lambda: str(places(shop.calls(10))))
            back = shop.calls(40)
    found.update(before=places(before), ill=places(over), well_again=places(back))
    found.update(seconds_to_the_other_region=round(away, 2))
    found.update(calls_meanwhile=len(load.answers), failed_meanwhile=load.failed)
    assert load.failed == 0, [each for each in load.answers if each.status != 200][:3]
    assert all(each.status == 200 for each in (*before, *over, *back))
    return (
        f"near {found['before']}, ill {found['ill']} after {away:.1f} s, well again {found['well_again']}; "
        f"0 of {len(load.answers)} calls beside it failed"
    )


RESILIENT: Final = """\
routes:
  - {id: flaky, match: {path: /v1/flaky/**}, split: {v1: 100}, retry: {attempts: 3, on: [503]}}
  - {id: down, match: {path: /v1/down}, split: {v1: 100}, retry: {attempts: 3, on: [503]}}
  - {id: slow, match: {path: /v1/slow}, split: {v1: 100}, timeout: 300ms}
  - {id: shadow, match: {path: /v1/shadow/**}, split: {v1: 100}, mirror: [{to: v2}]}
  - {id: rest, split: {v1: 100}}
circuit_limits: {retry_budget: {percent: 20, least: 2}}
"""


@step("retries hide a backend that fails every third call at first")
def retries_hide(shop: Shop, found: dict[str, Any]) -> str:
    shop.commit("Retries, a timeout, a mirror", RESILIENT)
    answers = shop.calls(90, "/v1/flaky/{}", at_once=1)
    tries = len(shop.seen("v1-near", "/v1/flaky/"))
    found.update(calls=90, statuses=statuses(answers), tries=tries, failed_tries=30)
    assert statuses(answers) == {200: 90}, statuses(answers)
    assert tries == 120, tries
    return f"90 calls in {tries} tries, 30 of which failed; the caller saw {found['statuses']}"


@step("a backend that is down gets no storm: retries stay within 20 % of what is in flight")
def budget_holds(shop: Shop, found: dict[str, Any]) -> str:
    answers = shop.calls(40, "/v1/down", at_once=40)
    arrived = shop.seen("v1-near", "/v1/down")
    most = max(each["retries_at_once"] for each in arrived)
    found.update(calls=40, statuses=statuses(answers), tries=len(arrived), retries_at_once=most)
    found.update(retries_at_once_allowed=8, tries_without_budget=120)
    assert statuses(answers) == {503: 40}, statuses(answers)
    assert 0 < most <= 8, most
    assert len(arrived) < 120, len(arrived)
    return (
        f"40 calls at once in {len(arrived)} tries (120 without), at most {most} retries at once (8 allowed)"
    )


@step("a call that takes too long ends when its timeout says")
def timeout_ends(shop: Shop, found: dict[str, Any]) -> str:
    answers = shop.calls(5, "/v1/slow", at_once=1)
    fastest = min(each.seconds for each in answers)
    found.update(statuses=statuses(answers), timeout_ms=300, fastest_ms=round(1000 * fastest), app_ms=2000)
    assert {(each.status, each.error) for each in answers} == {(504, "VST3012")}, answers[0]
    assert 0.28 <= fastest < 1.5, fastest
    return f"504 after {1000 * fastest:.0f} ms (timeout 300 ms, the app takes 2000 ms)"


@step("a mirror gets a copy of every request, and its answers go nowhere")
def mirror_copies(shop: Shop, found: dict[str, Any]) -> str:
    answers = shop.calls(50, "/v1/shadow/{}")

    def copies() -> int:
        return len({each["path"] for each in shop.seen("v2-near", "/v1/shadow/")})

    until(lambda: copies() == 50, lambda: f"{copies()} copies")
    found.update(calls=50, answered_by=places(answers), copies=copies())
    assert places(answers) == {"v1-near": 50}, places(answers)
    return f"50 calls answered by {found['answered_by']}, {copies()} copies at v2"


@step("a fault ends by itself at its time, without another commit")
def fault_ends(shop: Shop, found: dict[str, Any]) -> str:
    aborted: list[float] = []
    ended = 0.0
    # A busy machine may take longer to a commit than a short fault lasts.
    for seconds in (4, 8, 16):
        until_when = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        fault = f"fault: {{until: {until_when:%Y-%m-%dT%H:%M:%SZ}, abort: {{status: 503}}}}"
        shop.push("A drill", f"routes: [{{id: drill, {fault}}}]\n")
        aborted, ended = _last_and_first(shop, until_when.timestamp())
        if aborted:
            break
    after = shop.calls(20)
    found.update(aborted=len(aborted), afterwards=statuses(after))
    assert aborted, "no call met a fault"
    found.update(last_aborted_s=round(aborted[-1], 2), first_answered_s=round(ended, 2))
    # The proxy looks at its clock after a call was sent, and before it is answered.
    assert aborted[-1] <= 0, aborted[-1]
    assert ended >= 0, ended
    assert statuses(after) == {200: 20}, statuses(after)
    return (
        f"{len(aborted)} calls aborted, the last sent {aborted[-1]:+.2f} s from its end, "
        f"the first answered {ended:+.2f} s; then {found['afterwards']}"
    )


def _last_and_first(shop: Shop, end: float) -> tuple[list[float], float]:
    """When calls that were aborted were sent, and when the first after them was answered; seconds from ``end``."""
    aborted: list[float] = []

    def is_over() -> float | None:
        sent, answer = time.time(), shop.call()
        if answer.error == "VST3018":
            aborted.append(sent - end)
        elif answer.status == 200 and (aborted or sent > end):
            return max(time.time() - end, 1e-9) if time.time() >= end else -1.0
        return None

    return aborted, until(is_over, "the end of the fault")


@step("each caller has a limit of its own")
def limit_per_caller(shop: Shop, found: dict[str, Any]) -> str:
    limit = "limits: [{requests: 10/h, per: caller, path: /v1/limited}]\n"
    shop.commit("Ten in an hour for each caller", canary(0) + limit)
    answers = {by: shop.calls(25, "/v1/limited", by=by) for by in ("orders", "reports")}
    found.update(limit=10, asked=25, statuses={by: statuses(each) for by, each in answers.items()})
    free = shop.calls(25)
    assert all(each == {200: 10, 429: 15} for each in found["statuses"].values()), found["statuses"]
    assert statuses(free) == {200: 25}, statuses(free)
    return f"10 of 25 each: {found['statuses']}; paths without a limit: {statuses(free)}"


@step("a host outside is reached over TLS by those who may, and verified by its authority")
def egress_verifies(shop: Shop, found: dict[str, Any]) -> str:
    good, bad = PublicAuthority("Public Root"), PublicAuthority("Somebody Else")
    with outside(shop, good) as bank, outside(shop, bad) as impostor:
        more = {"certs/public.pem": good.pem}
        for name, port in (("bank", bank), ("impostor", impostor)):
            more[f"egress/{name}.yaml"] = (
                f"external: {name}\nhosts: [localhost:{port}]\ntls: {{ca: certs/public.pem}}\n"
                "allow: [{id: orders-pay, from: [orders], methods: [GET], paths: [/v1/**]}]\n"
            )
        shop.commit("Orders may ask the bank", canary(0), more)
        began = datetime.now(UTC)
        allowed = shop.call("/v1/rates", to="bank")
        denied = shop.call("/v1/rates", to="bank", by="reports")
        foreign = shop.call("/v1/rates", to="impostor")

    def logged() -> list[str]:
        found = [
            each for each in shop.records() if each.rule == "egress/bank/orders-pay" and each.time >= began
        ]
        return [each.source_spiffe_id for each in found]

    until(logged, "a record of the call")
    found.update(allowed=[allowed.status, allowed.body], denied=[denied.status, denied.error])
    found.update(foreign_authority=[foreign.status, foreign.error], logged_caller=logged()[0])
    assert allowed.body == {"seen": "/v1/rates", "identity": None}, allowed
    assert (denied.status, denied.error) == (403, "VST4001"), denied
    assert (foreign.status, foreign.error) == (503, "VST3032"), foreign
    assert logged() == [ORDERS], logged()
    return (
        f"orders {allowed.status}, reports {denied.status} {denied.error}, "
        f"another authority's certificate {foreign.status} {foreign.error}; logged: {ORDERS}"
    )


@contextmanager
def outside(shop: Shop, authority: PublicAuthority) -> Iterator[int]:
    """A TLS server for ``localhost`` with a certificate of this authority; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            identity = self.headers.get("x-forwarded-client-cert")
            self.wfile.write(
                b'{"seen": "%s", "identity": %s}'
                % (self.path.encode(), b"null" if identity is None else b'"told"')
            )

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue(shop.directory, "localhost"))
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@step("plain text is taken for a while, counted, and refused once payments is strict again")
def plain_text_ends(shop: Shop, found: dict[str, Any]) -> str:
    hour = datetime.now(UTC) + timedelta(hours=1)
    permissive = (
        f"mtls:\n  permissive_until: {hour:%Y-%m-%dT%H:%M:%SZ}\n  reason: the batch has no sidecar yet\n"
        "  allow: [{id: batch, methods: [GET], paths: [/v1/batch]}]\n"
    )
    shop.commit("The batch may come in plain text", canary(0) + permissive)
    began = datetime.now(UTC)
    plain = [shop.call_in_plain_text("/v1/batch") for _ in range(15)]
    elsewhere = shop.call_in_plain_text("/v1/charges")
    mutual = shop.calls(44)

    def shares() -> dict[str, int]:
        counted = count(shop.records(), ["transport"], service="payments", since=began)
        return {transport: number for (transport,), number in counted.items()}

    until(lambda: sum(shares().values()) >= 60, lambda: str(shares()))
    share = shares()
    shop.commit("Strict", canary(0))
    strict = [shop.call_in_plain_text("/v1/batch") for _ in range(5)]
    afterwards = shop.calls(20)
    found.update(plain=statuses(plain), plain_elsewhere=elsewhere.status, mutual=statuses(mutual))
    found.update(transport=share, plain_when_strict=statuses(strict), mutual_when_strict=statuses(afterwards))
    assert (statuses(plain), statuses(mutual)) == ({200: 15}, {200: 44}), found
    assert elsewhere.status == 403, elsewhere
    assert share == {"plaintext": 16, "mtls": 44}, share
    assert all(each.status != 200 for each in strict), strict
    assert statuses(afterwards) == {200: 20}, statuses(afterwards)
    assert len(shop.seen("v1-near", "/v1/batch")) == 15
    percent = 100 * share["plaintext"] / sum(share.values())
    return (
        f"plain {found['plain']}, at another path {elsewhere.status}; reported: {share} ({percent:.0f} % plain text); "
        f"strict: plain 0 of 5 taken, mutual TLS {found['mutual_when_strict']}"
    )


@step("a bad commit changes nothing, and is told with its place")
def bad_commit_refused(shop: Shop, found: dict[str, Any]) -> str:
    before = shop.rollout()["good"]
    with shop.load() as load:
        bad = shop.push("With a mistake", "routes:\n  - {id: canary, split: {v1: 90, v3: 10}}\n")[:12]

        def errors() -> list[dict[str, Any]]:
            intent = vestibule("status", *shop.operator).envelope["data"]["intent"]
            return [
                each for each in intent["problems"] if each["severity"] == "error" and bad in each["where"]
            ]

        problem = until(errors, "the problem in status")[0]
        enough = len(load.answers) + 10
        until(lambda: len(load.answers) >= enough, "calls")
    after = shop.rollout()["good"]
    found.update(where=problem["where"], code=problem["code"], message=problem["message"])
    found.update(calls_meanwhile=len(load.answers), failed_meanwhile=load.failed)
    line = (PAYMENTS + "routes:\n").count("\n") + 1
    assert problem["where"].startswith(f"{bad}:mesh/services/payments.yaml:{line}:"), problem
    assert (after, load.failed) == (before, 0), (after, load.failed)
    return (
        f"{problem['where']}: {problem['code']} {problem['message']}; 0 of {len(load.answers)} calls failed"
    )


@step(
    "a commit that one node's Envoy refuses is taken back everywhere by itself, and holds once that Envoy can"
)
def refusal_rolled_back(shop: Shop, found: dict[str, Any]) -> str:
    shop.commit("To every region, within nine seconds", canary(0) + "timeout: 9s\n")
    good = shop.rollout()["good"]
    with shop.far.instance(_envoy_without(shop, LIMITER)), shop.load() as load:
        until(lambda: "v1-far" in places(load.answers), "calls to the far node")
        began = time.monotonic()
        bad = shop.push("A thousand in a second", canary(0) + "limits: [{requests: 1000/s}]\n")[:12]
        until(lambda: shop.rollout()["failed"] == bad, lambda: str(shop.rollout()))
        taken_back = time.monotonic() - began
        until(lambda: _all_have(shop, good), lambda: str(shop.rollout()))
        told, seen = shop.rollout(), _as_operators_see(shop, bad)
        before = len(load.answers)
        until(lambda: "v1-far" in places(load.answers[before:]), "calls to the node that refused it")
        # What an operator does about it.
        vestibule("replace-envoy payments", "--envoy", find_envoy(), "--run-dir", shop.far.run_directory)
        vestibule("rollout resume", "--reason", "the far node has our Envoy now", *shop.operator)
        until(lambda: _all_have(shop, bad), lambda: str(shop.rollout()))
        before = len(load.answers)
        until(lambda: "v1-far" in places(load.answers[before:]), "calls to the new Envoy")
    found.update(reason=told["reason"], seconds_to_decide=round(taken_back, 2), **seen)
    found.update(good_with_the_new_envoy=shop.rollout()["good"] == bad)
    found.update(calls_meanwhile=len(load.answers), failed_meanwhile=load.failed)
    assert f"Didn't find a registered implementation for '{LIMITER}'" in told["reason"], told
    assert told["reason"].startswith("payments-"), told
    assert (seen["rollout_exit_code"], seen["outcome"]) == (1, "refused"), seen
    assert all((seen["status_says"], seen["audited"])), seen
    assert load.failed == 0, [each for each in load.answers if each.status != 200][:3]
    return (
        f"taken back after {taken_back:.1f} s: {told['reason']}; with another Envoy there, `rollout resume` made it "
        f"good; 0 of {len(load.answers)} calls failed"
    )


LIMITER: Final = "envoy.filters.http.local_ratelimit"


def _envoy_without(shop: Shop, extension: str) -> Path:
    """An Envoy that has one HTTP filter less, as one that a node's people have built by themselves may."""
    path = shop.directory / "envoy-of-our-own"
    path.write_text(
        f'#!/bin/sh\nexec "{find_envoy()}" --disable-extensions envoy.filters.http/{extension} "$@"\n'
    )
    path.chmod(0o755)
    return path


def _all_have(shop: Shop, version: str) -> bool:
    now = shop.rollout()
    return bool(now["good"] == version and not now["behind"] and now["phase"] in ("steady", "refused"))


def _as_operators_see(shop: Shop, bad: str) -> dict[str, Any]:
    """What commands and the audit log say about a commit that was taken back."""
    looked = vestibule("rollout --watch", *shop.operator)
    history = vestibule("rollout history", *shop.operator).envelope["data"]
    warnings = vestibule("status", *shop.operator).envelope["data"]["server"]["warnings"]
    audited = vestibule("audit list", shop.audit_log, "--action", "intent.refuse").envelope["data"]
    return {
        "rollout_exit_code": looked.code,
        "outcome": {each["version"]: each["outcome"] for each in history}[bad],
        "status_says": [each for each in warnings if f"intent {bad} was taken back" in each],
        "audited": [each for each in audited["records"] if bad in str(each)],
    }


@step("a commit that makes calls fail is taken back by itself")
def spike_rolled_back(shop: Shop, found: dict[str, Any]) -> str:
    good = shop.rollout()["good"]
    broken = "routes: [{id: astray, match: {path: /v1/charges}, rewrite: {path: /v1/broken}}]\n"
    with shop.load(threads=2) as load:
        until(lambda: len(load.answers) >= 60, "calls before it")
        began = time.monotonic()
        bad = shop.push("Lead calls astray", broken, {"mesh.yaml": MESH.replace("1s", "60s")})[:12]
        until(lambda: shop.rollout()["failed"] == bad, lambda: str(shop.rollout()))
        taken_back = time.monotonic() - began
        found["reason"] = shop.rollout()["reason"]
        until(lambda: _all_have(shop, good), lambda: str(shop.rollout()))
        well = time.monotonic() - began
        after = shop.calls(40)
    history = vestibule("rollout history", *shop.operator).envelope["data"]
    outcome = {each["version"]: each["outcome"] for each in history}[bad]
    found.update(
        seconds_to_decide=round(taken_back, 2), seconds_to_all_proxies=round(well, 2), outcome=outcome
    )
    found.update(failed=load.failed, calls=len(load.answers), afterwards=statuses(after))
    assert load.failed > 0
    assert outcome == "refused", history[:2]
    assert statuses(after) == {200: 40}, statuses(after)
    return (
        f"{load.failed} of {len(load.answers)} calls failed; taken back after {taken_back:.1f} s "
        f"({found['reason']}); then {found['afterwards']}"
    )


@step("a plan says who would lose which call, and which recorded calls would have been denied")
def plan_replays(shop: Shop, found: dict[str, Any]) -> str:
    shop.call("/v1/charges", by="reports")
    until(lambda: any("reports" in each.source_spiffe_id for each in shop.records()), "a record")
    shop.write({"mesh.yaml": MESH, "services/payments.yaml": _without_reports(PAYMENTS) + canary(0)})
    planned = vestibule("plan", shop.intent, "--replay", shop.access_log, *shop.operator)
    data = planned.envelope["data"]
    sentences = [each["sentence"] for each in data["access"]]
    denied = {each["rule"]: each["requests"] for each in data["replay"]["denied"]}
    found.update(sentences=sentences, replayed=data["replay"], exit_code=planned.code)
    assert planned.code == 1
    assert "reports loses GET /v1/** on payments" in sentences, sentences
    assert data["replay"]["would_be_denied"] > 0
    assert "payments/reports-read" in denied, denied
    return f"{'; '.join(sentences)}; of the recorded calls {data['replay']['would_be_denied']} would be denied {denied}"


def _without_reports(text: str) -> str:
    return "".join(f"{line}\n" for line in text.splitlines() if "reports" not in line)
