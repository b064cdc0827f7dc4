"""Messages by which a client of MCP tries to get past its rules, on the wire: none reaches the server.

The server's reader may be any: one that takes the first of two equal keys or the last, one that does not mind case
(Go's), one that takes a request with a result for a request (the official Python SDK).
"""

from __future__ import annotations

import gzip
import json
import random
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from tests.e2e.mesh_lab import PATIENCE, Lab, Proxy, client_tls, intent_of, rule, service, until, wire
from tests.e2e.shared_mesh import Shared

from vestibule.envoy.told import HEADER
from vestibule.errors import Where
from vestibule.intent.model import DenyDetail
from vestibule.intent.port_policies import port_policy
from vestibule.policy import Call, Condition, Effect, Engine, McpCall, McpDemand
from vestibule.policy.mcp import RESOURCE_METHODS, TARGETED

AGENT: Final = "agent"
TRUSTED: Final = "trusted"
STRANGER: Final = "stranger"
JSON_TYPE: Final = "application/json"
BOTH_TYPES: Final = "application/json, text/event-stream"

DENIED: Final = "VST4001"
NOT_MCP: Final = "VST3021"
AMBIGUOUS: Final = "VST3022"
TOO_LARGE: Final = "VST3023"
UNKNOWN: Final = "VST3024"
ODD_TARGET: Final = "VST3025"


def call(name: str = "read_note", **changes: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": {"id": 1}}
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params, **changes}


def message(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    denied: str
    """What the header says that tells why."""

    @property
    def error(self) -> dict[str, Any]:
        """The JSON-RPC error that a client of MCP shows."""
        document = json.loads(self.body)
        assert document["jsonrpc"] == "2.0"
        return dict(document["error"])

    @property
    def code(self) -> str:
        return str(self.error["data"]["error"])


class Mesh:
    """A server of MCP behind its proxy, and callers with certificates."""

    def __init__(self, lab: Lab, server: Proxy) -> None:
        self.lab = lab
        self.server = server
        self._tls: dict[str, ssl.SSLContext] = {}

    @property
    def seen(self) -> int:
        return len(self.lab.apps["notes"].seen)

    async def send(
        self,
        body: bytes | str | dict[str, Any] | list[Any],
        *,
        caller: str = AGENT,
        method: str = "POST",
        chunks: tuple[bytes, ...] = (),
        **headers: str,
    ) -> Answer:
        """One request on a connection of its own; a header whose value is empty is left out."""
        if isinstance(body, dict | list):
            body = json.dumps(body)
        data = body.encode() if isinstance(body, str) else body
        wanted = {"host": "notes", "content-type": JSON_TYPE, "accept": BOTH_TYPES}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        wanted |= {"transfer-encoding": "chunked"} if chunks else {"content-length": str(len(data))}
        lines = [f"{method} /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in wanted.items() if value)]
        parts = [b"%x\r\n%s\r\n" % (len(each), each) for each in (*chunks, b"")] if chunks else [data]
        async with wire(self.server.instance.ingress["mcp"], self._context(caller)) as connection:
            reply = await connection.send("\r\n".join(lines).encode() + b"\r\n\r\n", *parts)
        return Answer(reply.status, reply.body, reply.headers.get(HEADER, ""))

    def _context(self, caller: str) -> ssl.SSLContext:
        if caller not in self._tls:
            svid = self.lab.issue(self.lab.world.intent.services[caller].spiffe_id)
            self._tls[caller] = client_tls(svid, self.lab.directory)
        return self._tls[caller]


@asynccontextmanager
async def mesh_of_notes() -> AsyncIterator[Mesh]:
    demand = McpDemand(tools=("read_note", "list_*"), resources=("file:///docs/*",), prompts=("review",))
    own = McpDemand(methods=("completion/complete", "acme/sync"))
    notes = service(
        "notes",
        replace(rule("notes/read", AGENT), mcp=demand),
        replace(rule("notes/own", AGENT), mcp=own),
        replace(
            rule("notes/acme", AGENT),
            when=Condition.parse('mcp.method == "tools/call" && mcp.target.startsWith("acme_")'),
        ),
        rule("notes/all", TRUSTED),
        detail=DenyDetail.CALLER,
        mcp="mcp",
    )
    kept = replace(
        rule("notes/no-drop", AGENT, TRUSTED),
        effect=Effect.DENY,
        mcp=McpDemand(tools=("drop_*", "list_secrets")),
        where=Where(file="services/notes.yaml", line=20, column=5),
    )
    bad = replace(
        rule("notes/no-bad", AGENT, TRUSTED),
        effect=Effect.DENY,
        mcp=McpDemand(tools=("*",)),
        when=Condition.parse('mcp.target.endsWith("_bad")'),
    )
    intent = intent_of(
        replace(notes, deny=(kept, bad)),
        *(replace(service(each), ports={}) for each in (AGENT, TRUSTED, STRANGER)),
    )
    async with Lab(intent) as lab:
        server = await lab.add("notes")
        await lab.ready()
        yield Mesh(lab, server)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shared[Mesh]]:
    with Shared(mesh_of_notes) as shared:
        yield shared


ALLOWED: Final[dict[str, Any]] = {
    "a tool that is named": call(),
    "a tool by its beginning": call("list_notes"),
    "a resource": message("resources/read", uri="file:///docs/a.txt"),
    "a subscription": message("resources/subscribe", uri="file:///docs/a.txt"),
    "a prompt": message("prompts/get", name="review"),
    "a method that is named": message("completion/complete", ref={"type": "ref/prompt", "name": "x"}),
    "a method of the server's own": message("acme/sync"),
    "the beginning of a session": message(
        "initialize", protocolVersion="2025-06-18", clientInfo={"name": "x"}
    ),
    "a ping": message("ping"),
    "a list": message("tools/list"),
    "a notification": {"jsonrpc": "2.0", "method": "notifications/initialized"},
    "a reply": {"jsonrpc": "2.0", "id": 1, "result": {}},
    "a reply that is an error": {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}},
    "keys in arguments that look like MCP's": call(params={"name": "read_note", "arguments": {"Name": "x"}}),
    "escapes": '{"jsonrpc":"2.0","id":"a","method":"tools\\/call","params":{"n\\u0061me":"re\\u0061d_note"}}',
    "a large message": call(params={"name": "read_note", "arguments": {"text": "x" * 1_000_000}}),
    "white space behind the message": json.dumps(call()) + "\n" * 100_000,
}


@pytest.mark.parametrize("body", ALLOWED.values(), ids=ALLOWED)
def test_what_rules_name_arrives_as_it_was_sent(mesh: Shared[Mesh], body: Any) -> None:
    async def story(mesh: Mesh) -> None:
        answer = await mesh.send(body)

        assert answer.status == 200, answer.body
        sent = body if isinstance(body, str) else json.dumps(body)
        assert mesh.lab.apps["notes"].seen[-1].body == sent.encode()

    mesh.run(story)


DENIALS: Final[dict[str, Any]] = {
    "a tool that is not named": call("delete_note"),
    "a tool whose name begins like one": call("read_note2"),
    "a tool in other letters": call("Read_Note"),
    "a tool without its last letter": call("read_not"),
    "a tool that is denied though it is named": call("list_secrets"),
    "a prompt that is called as a tool": call("review"),
    "a tool by the name of another's argument": call(
        params={"arguments": {"name": "read_note"}, "name": "delete_note"}
    ),
    "a tool beside an object that looks like params": call(
        "delete_note", x={"params": {"name": "read_note"}}
    ),
    "a tool beside a key with dots": '{"params.name":"read_note",' + json.dumps(call("delete_note"))[1:],
    "a tool that is a number": call(params={"name": 5}),
    "a tool that is an object": call(params={"name": {"name": "read_note"}}),
    "a tool without an id": {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "delete_note"}},
    "a resource elsewhere": message("resources/read", uri="file:///etc/passwd"),
    "a resource that begins like one": message("resources/read", uri="file:///docs2/a"),
    "a method that no rule names": message("logging/setLevel", level="debug"),
    "a task's result": message("tasks/result", taskId="1"),
}


@pytest.mark.parametrize("body", DENIALS.values(), ids=DENIALS)
def test_what_no_rule_names_is_denied(mesh: Shared[Mesh], body: Any) -> None:
    async def story(mesh: Mesh) -> None:
        before = mesh.seen
        answer = await mesh.send(body)

        assert (answer.status, answer.code) == (403, DENIED), answer.body
        assert mesh.seen == before

    mesh.run(story)


def raw(text: str) -> str:
    return '{"jsonrpc":"2.0","id":7,' + text + "}"


CALL: Final = '"method":"tools/call","params":{"name":"read_note"}'
ATTACKS: Final[dict[str, tuple[Any, str]]] = {
    "a key twice: the tool": (
        raw('"method":"tools/call","params":{"name":"read_note","name":"x"}'),
        AMBIGUOUS,
    ),
    "a key twice: the method": (raw(f'"method":"ping",{CALL}'), AMBIGUOUS),
    "a key twice: the parameters": (raw(f'{CALL},"params":{{"name":"delete_note"}}'), AMBIGUOUS),
    "a key twice: no parameters": (raw(f'{CALL},"params":null'), AMBIGUOUS),
    "a key twice, once with escapes": (
        raw('"method":"tools/call","params":{"name":"read_note","n\\u0061me":"delete_note"}'),
        AMBIGUOUS,
    ),
    "a key twice, far behind": (
        raw(
            '"method":"tools/call","params":{"name":"read_note","arguments":{"x":"'
            + "x" * 20_000
            + '"},"name":"delete_note"}'
        ),
        AMBIGUOUS,
    ),
    "another case: the tool": (
        raw('"method":"tools/call","params":{"name":"read_note","Name":"delete_note"}'),
        AMBIGUOUS,
    ),
    "another case: the resource": (
        raw('"method":"resources/read","params":{"uri":"file:///docs/a","URI":"file:///etc/passwd"}'),
        AMBIGUOUS,
    ),
    "another case: the method": (raw('"method":"ping","Method":"tools/call"'), AMBIGUOUS),
    "another case: the parameters": (raw(f'{CALL},"PARAMS":{{"name":"delete_note"}}'), AMBIGUOUS),
    "another case: a long s": (raw(f'{CALL},"param\\u017f":{{"name":"delete_note"}}'), AMBIGUOUS),
    "another case: only the tool": (raw('"method":"tools/call","params":{"Name":"delete_note"}'), AMBIGUOUS),
    "a request with a result": (
        raw('"method":"tools/call","params":{"name":"delete_note"},"result":{}'),
        AMBIGUOUS,
    ),
    "a request with an error": (
        raw('"error":{},"method":"tools/call","params":{"name":"delete_note"}'),
        AMBIGUOUS,
    ),
    "a reply with a method in another case": (
        raw('"Method":"tools/call","params":{"name":"delete_note"},"result":{}'),
        AMBIGUOUS,
    ),
    "a reply with a method of one's own": (raw('"method":"acme/drop","result":{}'), AMBIGUOUS),
    "a batch": ([call(), call("delete_note")], NOT_MCP),
    "a batch of one": ([call("delete_note")], NOT_MCP),
    "a second message behind the first": (json.dumps(call()) + json.dumps(call("delete_note")), NOT_MCP),
    "rubbish behind the message": (json.dumps(call()) + " delete_note", NOT_MCP),
    "no JSON": ("delete_note", NOT_MCP),
    "nothing": ("", NOT_MCP),
    "a number": ("5", NOT_MCP),
    "another version of JSON-RPC": (call("delete_note", jsonrpc="1.0"), NOT_MCP),
    "no version of JSON-RPC": ({"method": "tools/call", "params": {"name": "delete_note"}}, NOT_MCP),
    "a method that is a list": (call(method=["tools/call"]), NOT_MCP),
    "a method that is nothing": (call(method=None), NOT_MCP),
    "single quotes": (str(call()), AMBIGUOUS),
    "keys without quotes": (json.dumps(call()).replace('"method"', "method"), AMBIGUOUS),
    "a comma too many": (json.dumps(call())[:-1] + ",}", AMBIGUOUS),
    "a line break in a name": (json.dumps(call()).replace("read_note", "read_note\n"), AMBIGUOUS),
    "a comment": ("/**/" + json.dumps(call()), NOT_MCP),
    "a byte order mark": ("\N{ZERO WIDTH NO-BREAK SPACE}" + json.dumps(call()), NOT_MCP),
    "UTF-16": (json.dumps(call()).encode("utf-16"), NOT_MCP),
    "bytes that are no UTF-8": (json.dumps(call()).encode().replace(b"read_note", b"read_note\xff"), NOT_MCP),
    "half a character": (json.dumps(call("read_note\ud800")), NOT_MCP),
    "very deep": (raw('"method":"ping","params":{"a":' + "[" * 5000 + "]" * 5000 + "}"), NOT_MCP),
    "no parameters": (raw('"method":"tools/call"'), ODD_TARGET),
    "parameters in a list": (raw('"method":"tools/call","params":[{"name":"delete_note"}]'), ODD_TARGET),
    "a tool in a list": (call(params={"name": ["delete_note"]}), ODD_TARGET),
    "an empty name": (call(""), ODD_TARGET),
    "a NUL in a name": (call("read_note\0"), ODD_TARGET),
    "a dot segment": (message("resources/read", uri="file:///docs/../etc/passwd"), ODD_TARGET),
    "an escaped dot segment": (message("resources/read", uri="file:///docs/%2e%2E/etc/passwd"), ODD_TARGET),
    "an escaped slash": (message("resources/read", uri="file:///docs/..%2fetc"), ODD_TARGET),
    "a backslash": (message("resources/read", uri="file:///docs/..\\etc"), ODD_TARGET),
    "a scheme in capitals": (message("resources/read", uri="FILE:///docs/a"), ODD_TARGET),
    "a needless escape": (message("resources/read", uri="file:///docs/%61"), ODD_TARGET),
    "an unknown method": (message("acme/drop", name="delete_note"), UNKNOWN),
    "an unknown notification": ({"jsonrpc": "2.0", "method": "notifications/acme"}, UNKNOWN),
    "a method with a space": (message("tools/call read_note"), AMBIGUOUS),
    "a method in other letters": (call(method="Tools/call"), UNKNOWN),
    "Envoy's own name for replies, as a method": (call(method="__jsonrpc_response"), AMBIGUOUS),
    "more than a mebibyte": (
        call(params={"name": "read_note", "arguments": {"x": "x" * 1_100_000}}),
        TOO_LARGE,
    ),
    "a mebibyte of white space, then another message": (
        json.dumps(call()) + " " * 1_100_000 + json.dumps(call("delete_note")),
        TOO_LARGE,
    ),
}


@pytest.mark.parametrize("caller", [AGENT, TRUSTED])
@pytest.mark.parametrize(("body", "code"), ATTACKS.values(), ids=ATTACKS)
def test_what_could_be_read_in_two_ways_is_refused_whoever_sends_it(
    mesh: Shared[Mesh], body: Any, code: str, caller: str
) -> None:
    async def story(mesh: Mesh) -> None:
        before = mesh.seen
        answer = await mesh.send(body, caller=caller)

        assert answer.status in (400, 403, 413), answer.body
        assert answer.code == code, answer.body
        assert mesh.seen == before

    mesh.run(story)


ENVELOPES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "GET that does not ask for a stream": (
        {"method": "GET", "accept": "text/html", "content_type": ""},
        NOT_MCP,
    ),
    "DELETE without a session": ({"method": "DELETE"}, NOT_MCP),
    **{f"{each}": ({"method": each}, NOT_MCP) for each in ("PUT", "PATCH", "OPTIONS")},
    "another content type": ({"content_type": "text/plain"}, NOT_MCP),
    "no content type": ({"content_type": ""}, NOT_MCP),
    "a content type that only begins like JSON's": ({"content_type": "application/json-seq"}, NOT_MCP),
    "no accept header": ({"accept": ""}, NOT_MCP),
    "a content encoding": ({"content_encoding": "gzip"}, AMBIGUOUS),
    "a content encoding in capitals": ({"content_encoding": "DEFLATE"}, AMBIGUOUS),
}


@pytest.mark.parametrize(("envelope", "code"), ENVELOPES.values(), ids=ENVELOPES)
def test_other_requests_than_those_of_mcp_are_refused(
    mesh: Shared[Mesh], envelope: dict[str, Any], code: str
) -> None:
    async def story(mesh: Mesh) -> None:
        before = mesh.seen
        answer = await mesh.send(call(), **envelope)

        assert answer.code == code, answer.body
        assert mesh.seen == before

    mesh.run(story)


def test_a_second_message_in_a_chunk_of_its_own_is_refused(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        before = mesh.seen
        chunks = (json.dumps(call()).encode(), json.dumps(call("delete_note")).encode())
        answer = await mesh.send(b"", chunks=chunks)

        # Whether the first reader sees the second message depends on how bytes arrive; the strict one always does.
        assert answer.code in (NOT_MCP, AMBIGUOUS)
        assert mesh.seen == before

    mesh.run(story)


def test_a_compressed_message_is_refused(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        packed = gzip.compress(json.dumps(call("delete_note")).encode())
        assert (await mesh.send(packed, content_encoding="gzip")).code in (NOT_MCP, AMBIGUOUS)

    mesh.run(story)


@pytest.mark.parametrize("caller", [AGENT, TRUSTED, STRANGER])
def test_streams_and_ends_of_sessions_are_for_those_whom_a_rule_names(
    mesh: Shared[Mesh], caller: str
) -> None:
    async def story(mesh: Mesh) -> None:
        expected = 403 if caller == STRANGER else 200
        opened = await mesh.send(
            b"", caller=caller, method="GET", accept="text/event-stream", content_type=""
        )
        ended = await mesh.send(b"", caller=caller, method="DELETE", mcp_session_id="1", content_type="")
        begun = await mesh.send(ALLOWED["the beginning of a session"], caller=caller)

        assert (opened.status, ended.status, begun.status) == (expected,) * 3

    mesh.run(story)


def test_a_denial_goes_before_a_rule_that_allows_everything(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        assert (await mesh.send(call("delete_note"), caller=TRUSTED)).status == 200
        assert (await mesh.send(call("drop_all"), caller=TRUSTED)).code == DENIED
        assert (await mesh.send(call("list_secrets"), caller=TRUSTED)).code == DENIED

    mesh.run(story)


def test_conditions_may_ask_for_method_and_target(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        for caller, tool, status in (
            (AGENT, "acme_good", 200),
            (AGENT, "acme_bad", 403),
            (TRUSTED, "acme_bad", 403),
            (TRUSTED, "other", 200),
        ):
            assert (await mesh.send(call(tool), caller=caller)).status == status, (caller, tool)
        for body in (ALLOWED["a ping"], ALLOWED["a reply"], ALLOWED["the beginning of a session"]):
            assert (await mesh.send(body, caller=TRUSTED)).status == 200

    mesh.run(story)


def test_a_client_reads_why_it_was_refused(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        answer = await mesh.send(call("delete_note"), x_request_id="00000000-0000-4000-8000-000000000001")

        document = json.loads(answer.body)
        assert document["id"] == 7
        assert document["error"]["code"] == -32003
        assert document["error"]["message"].startswith(
            "VST4001: no rule of notes allows tools/call delete_note"
        )
        assert document["error"]["data"]["request_id"] == "00000000-0000-4000-8000-000000000001"
        assert answer.denied == "VST4001 - - v1"
        by_a_rule = await mesh.send(call("drop_all"))
        assert by_a_rule.denied == "VST4001 notes/no-drop services/notes.yaml:20 v1"
        assert by_a_rule.error["data"]["where"] == "services/notes.yaml:20"
        assert (await mesh.send(raw(f'"method":"ping",{CALL}'))).denied == "VST3022 - - v1"
        assert (await mesh.send(message("acme/drop"))).denied == "VST3024 vestibule/mcp-unknown-method - v1"
        assert (await mesh.send(call())).denied == ""

    mesh.run(story)


def test_the_access_log_says_what_was_asked_for(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        wanted = "00000000-0000-4000-8000-000000000002"
        await mesh.send(call("delete_note"), x_request_id=wanted)

        def entry() -> Any:
            return next((each for _, each in mesh.server.requests if each.request.request_id == wanted), None)

        tags = (await until(entry, "no access record", PATIENCE)).common_properties.custom_tags
        assert (tags["mcp_method"], tags["mcp_name"]) == ("tools/call", "delete_note")

    mesh.run(story)


def test_proxy_and_engine_agree_about_names_within_one_edit_of_a_rule(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        intent = mesh.lab.world.intent
        notes = intent.services["notes"]
        engine = Engine(port_policy(intent, notes, notes.ports["mcp"]))
        chosen = random.Random(5)
        for method, target in ((method, each) for method in TARGETED for each in _edited(chosen)):
            key = "uri" if method in RESOURCE_METHODS else "name"
            caller = chosen.choice((AGENT, TRUSTED, STRANGER))
            answer = await mesh.send(message(method, **{key: target}), caller=caller)
            said = Call(
                caller=intent.services[caller].spiffe_id,
                port="mcp",
                method="POST",
                path="/mcp",
                mcp=McpCall(method=method, target=target),
            )
            assert (answer.status == 200) is engine.decide(said).allowed, (caller, method, target, answer)

    mesh.run(story)


def _edited(chosen: random.Random) -> Iterator[str]:
    """Names at the boundary of a rule: the letter before or behind it added, left out, or another."""
    for name in (
        "read_note",
        "list_",
        "list_secrets",
        "drop_",
        "review",
        "file:///docs/",
        "file:///docs/a/b",
    ):
        at = chosen.randrange(len(name))
        letter = chosen.choice("aA_/.%2e \\~\t")
        yield from (
            name,
            name[:-1],
            f"{name}x",
            name[:at] + letter + name[at:],
            name[:at] + letter + name[at + 1 :],
        )
