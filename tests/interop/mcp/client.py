"""A client of the official MCP SDK: ``client.py MODE``; prints what came of everything that it tried."""

import asyncio
import json
import sys

from mcp import Client, MCPError
from mcp.types import ElicitResult

mode = sys.argv[1]
told: list[str] = []
heard = asyncio.Event()
steps: list[float] = []


async def answer(*_):
    return ElicitResult(action="accept", content={"word": "please"})


async def hear(message):
    told.append(getattr(message, "method", type(message).__name__))
    heard.set()


async def progress(step, *_):
    steps.append(step)


async def tried(work):
    try:
        return (await work).model_dump(mode="json")
    except MCPError as error:
        return {"code": error.code, "message": error.message, "data": error.data}


async def main():
    async with Client(
        "http://notes/mcp", mode=mode, elicitation_callback=answer, message_handler=hear
    ) as client:
        found = {"version": client.protocol_version}
        found["tools"] = sorted(each.name for each in (await client.list_tools()).tools)
        found["allowed"] = await tried(client.call_tool("read_note", {"title": "a"}))
        found["refused"] = await tried(client.call_tool("delete_note", {"title": "a"}))
        found["slow"] = await tried(client.call_tool("slow", progress_callback=progress))
        found["public"] = await tried(client.read_resource("note:///public/a"))
        found["secret"] = await tried(client.read_resource("note:///secret/a"))
        found["outside"] = await tried(client.read_resource("note:///public/../secret/a"))
        found["prompt"] = await tried(client.get_prompt("review", {"title": "a"}))
        if mode == "legacy":
            found["asked"] = await tried(client.call_tool("ask_back"))
            found["ping"] = await tried(client.send_ping())
            told.clear()
            heard.clear()
            found["changed"] = await tried(client.call_tool("change"))
            async with asyncio.timeout(60):
                await heard.wait()
        found["again"] = await tried(client.call_tool("read_note", {"title": "b"}))
        print(json.dumps({**found, "told": told, "steps": steps}))


asyncio.run(main())
