"""A server of the official MCP SDK: ``server.py PORT [stateless] [json]``."""

import asyncio
import sys

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import BaseModel

server = MCPServer("notes")


class Answer(BaseModel):
    """What the client's user is asked for."""

    word: str


@server.tool()
def read_note(title: str) -> str:
    """The text of a note."""
    return f"the text of {title}"


@server.tool()
def delete_note(title: str) -> str:
    """Delete a note."""
    raise AssertionError(f"{title} was to be deleted")


@server.tool()
async def slow(context: Context) -> str:
    """Something that takes longer than the mesh gives a request."""
    for step in range(10):
        await context.report_progress(step, 10)
        await asyncio.sleep(0.1)
    return "at last"


@server.tool()
async def ask_back(context: Context) -> str:
    """Something for which the user has to be asked."""
    result = await context.elicit("which word?", schema=Answer)
    return f"the word is {result.data.word}"


@server.tool()
async def change(context: Context) -> str:
    """Something by which the list of tools changes."""
    await context.session.send_tool_list_changed()
    return "changed"


@server.resource("note:///public/{title}")
def public(title: str) -> str:
    """A resource that everybody may read."""
    return f"public {title}"


@server.resource("note:///secret/{title}")
def secret(title: str) -> str:
    """One that nobody may read."""
    raise AssertionError(f"secret {title}")


@server.prompt()
def review(title: str) -> str:
    """A prompt."""
    return f"Review {title}."


server.run(
    "streamable-http",
    host="127.0.0.1",
    port=int(sys.argv[1]),
    stateless_http="stateless" in sys.argv,
    json_response="json" in sys.argv,
    transport_security=TransportSecuritySettings(allowed_hosts=["notes"]),
)
