"""An agent that asks an MCP server for more than it may have.

Its sidecar is its HTTP proxy, which the SDK finds in the environment; nothing here is about certificates or rules.
"""

import asyncio

from mcp import Client, MCPError


async def ask(client: Client, tool: str, **arguments: str) -> None:
    """Call a tool, and say what came of it."""
    try:
        result = await client.call_tool(tool, arguments)
        print(f"{tool}: {result.structured_content['result']}", flush=True)
    except MCPError as error:
        print(f"{tool}: refused: {error.message}", flush=True)


async def work() -> None:
    """What an agent does in its first minute."""
    async with Client("http://notes/mcp") as client:
        await ask(client, "list_notes")
        await ask(client, "read_note", title="groceries")
        await ask(client, "delete_note", title="groceries")
        await ask(client, "read_note", title="groceries")


async def main() -> None:
    """Work once the server is there, and stay."""
    while True:
        try:
            await work()
            break
        except ExceptionGroup:  # as the SDK says that it could not connect
            print("the notes are not there yet", flush=True)
            await asyncio.sleep(1)
    await asyncio.Event().wait()


asyncio.run(main())
