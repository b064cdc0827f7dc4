"""An MCP server with three tools, which knows nothing of who may call them: its sidecar decides."""

import os

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

notes = {"groceries": "milk, bread", "birthday": "a book"}
server = MCPServer("notes")


@server.tool()
def list_notes() -> list[str]:
    """The titles of all notes."""
    return sorted(notes)


@server.tool()
def read_note(title: str) -> str:
    """The text of a note."""
    return notes[title]


@server.tool()
def delete_note(title: str) -> str:
    """Delete a note, for ever."""
    del notes[title]
    return f"deleted {title}"


@server.resource("note:///{title}")
def note(title: str) -> str:
    """The text of a note."""
    return notes[title]


# The name by which callers in the mesh know this server; the SDK refuses others.
known = TransportSecuritySettings(allowed_hosts=["notes"])
server.run("streamable-http", host="127.0.0.1", port=int(os.environ["PORT"]), transport_security=known)
