"""A chat room over WebSocket, with a page to try it from.

With the virtual environment of `make demo` activated (`. ../../.venv/bin/activate`), run it in this
folder with `serving run app:app`, and open http://localhost:8000 in two windows.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

import serving as serve

PAGE = """<!doctype html>
<title>Chat</title>
<form><input placeholder="Say something" autofocus></form>
<pre></pre>
<script>
  const name = prompt("Your name?") || "somebody";
  const socket = new WebSocket(location.href.replace(/^http/, "ws") + "room/" + name);
  socket.onmessage = (event) => document.querySelector("pre").append(event.data + "\\n");
  document.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    socket.send(document.querySelector("input").value);
    event.target.reset();
  };
</script>
"""

web = FastAPI()


@serve.deployment
@serve.ingress(web)
class Chat:
    """One room, in this process's memory: a second replica would be a second room."""

    def __init__(self) -> None:
        self.members: set[WebSocket] = set()

    @web.get("/", response_class=HTMLResponse)
    def page(self) -> str:
        return PAGE

    @web.websocket("/room/{name}")
    async def join(self, socket: WebSocket, name: str) -> None:
        await socket.accept()
        self.members.add(socket)
        try:
            await self.tell(f"{name} came in")
            async for text in socket.iter_text():  # ends when the client leaves
                await self.tell(f"{name}: {text}")
        finally:
            self.members.discard(socket)
        await self.tell(f"{name} left")

    async def tell(self, text: str) -> None:
        for member in tuple(self.members):
            try:
                async with asyncio.timeout(1):
                    await member.send_text(text)
            except (TimeoutError, WebSocketDisconnect, RuntimeError):
                self.members.discard(member)  # reads too slowly, or is gone


app = Chat.bind()
