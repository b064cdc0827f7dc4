"""Calls that a decision service decides about: what stays with the proxy, and what comes of every failure."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest
from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.service.auth.v3 import external_auth_pb2 as pb
from tests.e2e.central_lab import AskingProxy, denying, when
from tests.e2e.mesh_lab import Lab, Reply, client_tls, intent_of, rule, service, spiffe_id, until, wire
from tests.e2e.shared_mesh import Shared

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.envoy import central
from vestibule.envoy.told import HEADER
from vestibule.errors import Where
from vestibule.intent.model import Decide, DenyDetail, Intent
from vestibule.observe.access_record import AccessRecord, Verdict
from vestibule.policy import McpDemand, Mode, Rule

SMALL = when(
    "request.body.amount < 100.0", rule("payments/small", "orders", methods="POST", paths="/v1/charges")
)
TENANT = when(
    "attributes == {} && request.headers['x-tenant'] == 'a'", rule("payments/tenant", "orders", paths="/t")
)
CASTING = when("int(request.body.n) > 5", rule("payments/casting", "orders", paths="/cast"))
READ = rule("payments/read", "orders", methods="GET", paths="/v1/**")
SECRET = replace(
    denying(rule("payments/secret", "orders", paths="/v1/secret")),
    where=Where(file="services/payments.yaml", line=9, column=5),
)
SHADOW = replace(rule("payments/shadow", "orders", paths="/shadow"), mode=Mode.SHADOW)

NOTES = replace(
    service(
        "notes",
        replace(rule("notes/read", "orders"), mcp=McpDemand(tools=("read_*",))),
        when(
            "request.body.params.arguments.amount < 100.0",
            replace(rule("notes/pay", "orders"), mcp=McpDemand(tools=("pay",))),
        ),
        detail=DenyDetail.CALLER,
        mcp="mcp",
    ),
    deny=(replace(denying(rule("notes/no-drop", "orders")), mcp=McpDemand(tools=("read_secrets",))),),
)


def mesh(
    *allow: Rule, deny: tuple[Rule, ...] = (SECRET,), decide: Decide = Decide.LOCAL, version: str = "v1"
) -> Intent:
    payments = replace(service("payments", *allow, detail=DenyDetail.CALLER), deny=deny)
    intent = intent_of(payments, service("orders"), NOTES, version=version)
    return replace(intent, mesh=replace(intent.mesh, decide=decide))


USUAL = mesh(READ, SMALL, TENANT, CASTING, SHADOW)


@dataclass
class Story:
    lab: Lab
    proxy: AskingProxy
    notes: AskingProxy
    last: str = ""

    async def say(self, method: str, caller: str = "orders", **params: Any) -> tuple[int, str]:
        """A message of MCP; the answer's status, and the error in it."""
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        body = json.dumps(message).encode()
        types = "application/json, text/event-stream"
        head = ["POST /mcp HTTP/1.1", "host: notes", "content-type: application/json", f"accept: {types}"]
        head += [f"content-length: {len(body)}", "", ""]
        tls = client_tls(self.lab.issue(spiffe_id(caller)), self.lab.directory)
        async with wire(self.notes.instance.ingress["mcp"], tls) as connection:
            reply = await connection.send("\r\n".join(head).encode() + body)
        if reply.status == 200:
            return 200, ""
        return reply.status, str(json.loads(reply.body)["error"]["data"]["error"])

    async def ask(
        self, method: str, path: str, body: bytes = b"", *headers: str, caller: str = "orders"
    ) -> Reply:
        tls = client_tls(self.lab.issue(spiffe_id(caller)), self.lab.directory)
        async with wire(self.proxy.instance.ingress["http"], tls) as connection:
            self.last = str(uuid.uuid4())
            lines = [f"{method} {path} HTTP/1.1", "host: payments", f"x-request-id: {self.last}", *headers]
            lines += [f"content-length: {len(body)}"] if body else []
            connection._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
            return await connection._reply()

    async def record(self) -> AccessRecord:
        """The one about the last request."""

        def found() -> Any:
            logged = (each for _, each in self.proxy.requests)
            return next((each for each in logged if each.request.request_id == self.last), None)

        entry = await until(found, "nothing is logged about it")
        reporter = Reporter("payments", str(spiffe_id("payments")), "payments-1")
        line = EntryLines(LogName.parse("vestibule/inbound/payments/http"), reporter).http(entry)
        return AccessRecord.from_json(line.text)

    async def become(self, intent: Intent) -> None:
        await self.lab.change(intent)
        await self.lab.settle()


@asynccontextmanager
async def _story() -> AsyncIterator[Story]:
    lab = Lab(USUAL)
    lab.kind = AskingProxy
    async with lab:
        proxy, notes = await lab.add("payments"), await lab.add("notes")
        assert isinstance(proxy, AskingProxy)
        assert isinstance(notes, AskingProxy)
        await lab.ready()
        yield Story(lab, proxy, notes)


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared[Story]]:
    # A machine that stands still for seconds is no service that says nothing.
    with patch.object(central, "TIMEOUT", 8.0), Shared(_story) as found:
        yield found


@contextmanager
def saying(proxy: AskingProxy, answer: bytes | None) -> Iterator[None]:
    """Until the end of the block it is said; None is a decision service that breaks down."""

    def say(_: bytes) -> bytes:
        if answer is None:
            raise ZeroDivisionError
        return answer

    proxy.say = say
    try:
        yield
    finally:
        proxy.say = None


def version_of(story: Story) -> str:
    return story.lab.world.intent.version


def test_what_the_proxy_can_decide_it_does_not_ask(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        asked = len(story.proxy.asked)
        assert (await story.ask("GET", "/v1/x")).status == 200
        reply = await story.ask("GET", "/v1/secret")
        assert json.loads(reply.body)["rule"] == "payments/secret"
        assert (
            reply.headers[HEADER] == f"VST4001 payments/secret services/payments.yaml:9 {version_of(story)}"
        )
        assert (await story.ask("GET", "/v1//x")).error == "VST3001"
        assert len(story.proxy.asked) == asked

    shared.run(tell)


def test_a_rule_may_look_at_the_body(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        assert (await story.ask("POST", "/v1/charges", b'{"amount": 5}')).status == 200
        assert story.lab.apps["payments"].seen[-1].body == b'{"amount": 5}'
        refused = await story.ask("POST", "/v1/charges", b'{"amount": 500}')
        assert (refused.status, refused.error) == (403, "VST4001")
        record = await story.record()
        assert (record.verdict, record.details) == (Verdict.DENIED, "ext_authz_denied")

    shared.run(tell)


def test_a_shadow_rule_changes_nothing_of_who_decides_and_refuses_no_long_body(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        tried = replace(SMALL, mode=Mode.SHADOW)
        await story.become(mesh(READ, tried, version="v-tried"))
        asked = len(story.proxy.asked)
        assert (await story.ask("POST", "/v1/charges", b'{"amount": 5}')).status == 403
        record = await story.record()
        assert (record.verdict, record.shadow_verdict, record.shadow_rule) == (Verdict.DENIED, "", "")
        assert (await story.ask("GET", "/v1/charges")).status == 200
        assert len(story.proxy.asked) == asked

        charge = rule("payments/charge", "orders", methods="POST", paths="/v1/charges")
        await story.become(mesh(tried, charge, decide=Decide.CENTRAL, version="v-tried-centrally"))
        assert (await story.ask("POST", "/v1/charges", b'{"amount": 5}')).status == 200
        record = await story.record()
        assert (record.shadow_verdict, record.shadow_rule) == ("allowed", "payments/small")
        long = b'{"amount": 5, "more": "%s"}' % (b"x" * central.MAX_BODY)
        assert (await story.ask("POST", "/v1/charges", long)).status == 200
        assert story.lab.apps["payments"].seen[-1].body == long
        record = await story.record()
        assert (record.shadow_verdict, record.shadow_rule) == ("allowed", "payments/charge")
        await story.become(replace(USUAL, version="v-tried-over"))

    shared.run(tell)


def test_a_rule_about_tools_may_look_at_their_arguments(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        assert await story.say("initialize", protocolVersion="2025-06-18") == (200, "")
        assert await story.say("tools/list") == (200, "")
        assert await story.say("tools/call", name="read_note") == (200, "")
        assert await story.say("tools/call", name="pay", arguments={"amount": 5}) == (200, "")
        assert await story.say("tools/call", name="pay", arguments={"amount": 500}) == (403, "VST4001")
        assert await story.say("tools/call", name="pay", arguments={}) == (403, "VST4001")
        assert await story.say("tools/call", name="read_secrets") == (403, "VST4001")
        assert await story.say("tools/call", name="other") == (403, "VST4001")
        assert await story.say("tools/list", caller="payments") == (403, "VST4001")
        # What is no message of MCP is refused before anybody is asked.
        asked = len(story.notes.asked)
        assert await story.say("tools/unheard-of") == (403, "VST3024")
        assert len(story.notes.asked) == asked

    shared.run(tell)


def test_messages_are_decided_centrally_where_the_mesh_says_so(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        await story.become(mesh(READ, SMALL, decide=Decide.CENTRAL, version="v-mcp"))
        reply = await story.ask("GET", "/v1/secret")
        told = json.loads(reply.body)
        assert (told["rule"], told["where"]) == ("payments/secret", "services/payments.yaml:9")
        assert reply.headers[HEADER] == "VST4001 payments/secret services/payments.yaml:9 v-mcp"
        asked = len(story.notes.asked)
        assert await story.say("tools/call", name="read_note") == (200, "")
        assert await story.say("tools/call", name="other") == (403, "VST4001")
        assert len(story.notes.asked) == asked + 2
        await story.become(replace(USUAL, version="v-mcp-over"))

    shared.run(tell)


def test_the_log_names_rule_decision_and_shadow(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        assert (await story.ask("POST", "/t", b"", "x-tenant: a")).status == 200
        record = await story.record()
        assert (record.rule, len(record.decision_id)) == ("payments/tenant", 16)
        assert (await story.ask("POST", "/shadow")).status == 403
        record = await story.record()
        assert (record.verdict, record.rule) == (Verdict.DENIED, "")
        assert (record.shadow_verdict, record.shadow_rule) == ("allowed", "payments/shadow")

    shared.run(tell)


def test_only_what_rules_ask_for_is_told(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        await story.ask(
            "POST", "/t", b'{"amount": 1}', "x-tenant: a", "authorization: Bearer secret", "cookie: c"
        )
        http = story.proxy.asked[-1].attributes.request.http
        assert {each.key for each in http.header_map.headers} <= {
            "x-tenant",
            "x-request-id",
            "x-envoy-auth-partial-body",
        }
        assert not http.headers

    shared.run(tell)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "none"),
        (b"{", "no JSON"),
        (b'{"amount": "5"}', "of another type"),
        (b'{"amount": 5, "amount": 500}', "a key twice"),
        (b'{"n": 5}', "without what is asked for"),
    ],
)
def test_a_body_that_cannot_be_judged_is_not_allowed(shared: Shared[Story], body: bytes, why: str) -> None:
    async def tell(story: Story) -> None:
        assert (await story.ask("POST", "/v1/charges", body)).status == 403, why

    shared.run(tell)


def test_a_body_that_is_too_long_is_refused_as_such(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        asked = len(story.proxy.asked)
        reply = await story.ask("POST", "/v1/charges", b"x" * (central.MAX_BODY + 1))
        assert (reply.status, reply.error) == (413, "VST4134")
        assert len(story.proxy.asked) == asked

    shared.run(tell)


def test_an_error_of_evaluation_is_a_refusal_and_no_error_of_the_service(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        reply = await story.ask("POST", "/cast", b'{"n": "no number"}')
        assert (reply.status, reply.error) == (403, "VST4001")
        assert (await story.ask("POST", "/cast", b'{"n": "7"}')).status == 200

    shared.run(tell)


def test_duplicate_headers_do_not_fit_one_of_them(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        assert (await story.ask("POST", "/t", b"", "x-tenant: a")).status == 200
        assert (await story.ask("POST", "/t", b"", "x-tenant: a", "x-tenant: b")).status == 403
        assert (await story.ask("POST", "/t", b"", "x-tenant: b", "X-Tenant: a")).status == 403

    shared.run(tell)


def test_huge_headers_reach_no_decision_by_themselves(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        many = [f"x-{number}: {'y' * 200}" for number in range(90)]
        assert (await story.ask("POST", "/t", b"", "x-tenant: a", *many)).status == 200
        assert len(story.proxy.asked[-1].SerializeToString()) < 4096
        reply = await story.ask("POST", "/t", b"", f"x-tenant: {'a' * 50_000}")
        assert reply.status == 403

    shared.run(tell)


def test_a_caller_of_no_rule_is_denied_by_the_service(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        reply = await story.ask("POST", "/v1/charges", b'{"amount": 5}', caller="stranger")
        assert (reply.status, reply.headers[HEADER]) == (403, f"VST4001 - - {version_of(story)}")
        # What answers may tell goes along with no question.
        assert b"intent_version" not in story.proxy.asked[-1].SerializeToString()

    shared.run(tell)


LIES = {
    "no message": b"\xff\xff\xff",
    "a denial that says it is none": pb.CheckResponse(
        status={"code": 7}, ok_response=pb.OkHttpResponse()
    ).SerializeToString(),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_an_answer_that_is_none_lets_nobody_through(shared: Shared[Story], lie: str) -> None:
    async def tell(story: Story) -> None:
        with saying(story.proxy, LIES[lie]):
            reply = await story.ask("POST", "/v1/charges", b'{"amount": 5}')
        assert reply.status in (403, 503)
        assert (await story.ask("POST", "/v1/charges", b'{"amount": 5}')).status == 200

    shared.run(tell)


def test_an_answer_changes_nothing_of_the_request(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        forged = pb.CheckResponse()
        for name in ("x-forwarded-client-cert", "x-user", ":path"):
            forged.ok_response.headers.add().header.MergeFrom(HeaderValue(key=name, value="/forged"))
        forged.ok_response.headers_to_remove.append("x-tenant")
        with saying(story.proxy, forged.SerializeToString()):
            reply = await story.ask("POST", "/t", b"", "x-tenant: b")
        if reply.status == 200:
            seen = story.lab.apps["payments"].seen[-1]
            assert (seen.path, seen.headers["x-tenant"]) == ("/t", "b")
            assert "forged" not in json.dumps(seen.headers)
        else:
            assert reply.status in (403, 500, 503)

    shared.run(tell)


def test_an_answer_larger_than_life_lets_nobody_through(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        huge = pb.CheckResponse(status={"code": 7})
        huge.denied_response.status.code = 403
        huge.denied_response.body = "x" * 200_000
        for number in range(500):
            huge.denied_response.headers.add().header.MergeFrom(
                HeaderValue(key=f"x-{number}", value="y" * 100)
            )
        with saying(story.proxy, huge.SerializeToString()):
            reply = await story.ask("POST", "/v1/charges", b'{"amount": 5}')
        assert reply.status in (403, 503)
        assert len(reply.body) < 10_000

    shared.run(tell)


def test_a_service_that_breaks_down_is_told_from_a_denial(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        with saying(story.proxy, None):
            reply = await story.ask("POST", "/v1/charges", b'{"amount": 5}')
        assert (reply.status, reply.error) == (503, "VST4133")
        record = await story.record()
        assert (record.verdict, record.rule, record.status) == (Verdict.DENIED, "vestibule/no-decision", 503)
        assert (await story.ask("GET", "/v1/x")).status == 200

    shared.run(tell)


def test_a_service_without_the_policy_refuses_with_503(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        story.proxy.forgetful = True
        reply = await story.ask("POST", "/v1/charges", b'{"amount": 5}')
        story.proxy.forgetful = False
        assert (reply.status, reply.error) == (503, "VST4133")

    shared.run(tell)


def test_a_service_that_says_nothing_costs_as_long_as_a_proxy_waits_and_a_503(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        with story.proxy.frozen():
            reply = await story.ask("POST", "/v1/charges", b'{"amount": 5}')
        assert (reply.status, reply.error) == (503, "VST4133")
        assert (await story.ask("POST", "/v1/charges", b'{"amount": 5}')).status == 200

    shared.run(tell)


def test_a_change_of_who_decides_never_lets_anybody_through(shared: Shared[Story]) -> None:
    async def tell(story: Story) -> None:
        # A caller whom no version allows asks all the time while the policy turns central and back.
        refused = 0
        done = asyncio.Event()

        async def hammer() -> None:
            nonlocal refused
            while not done.is_set():
                reply = await story.ask("POST", "/v1/other", b'{"amount": 5}')
                assert reply.status in (403, 503), reply
                refused += 1

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hammer())
            for turn in range(6):
                local = mesh(READ, version=f"t{turn}")
                there = mesh(READ, decide=Decide.CENTRAL, version=f"t{turn}")
                await story.become(there if turn % 2 else local)
            done.set()
        assert refused
        asked = len(story.proxy.asked)
        assert (await story.ask("GET", "/v1/x")).status == 200
        assert len(story.proxy.asked) == asked + 1
        assert (await story.record()).rule == "payments/read"
        await story.become(replace(USUAL, version="v2"))

    shared.run(tell)
