"""Tokens that reach the client as a model makes them, over server-sent events and WebSocket.

With the virtual environment of `make demo` activated (`. ../../.venv/bin/activate`), run it in this
folder with `serving run app:app`, open http://localhost:8000 and write something, or:

    curl -N 'http://localhost:8000/events?prompt=Once+upon+a+time&tokens=50'

The model is a deployment of its own; the ingress passes its tokens on one by one, and each reaches
the client before the next is made. Stop curl early, and the model stops: it says how far it came. A
client that reads slowly slows the model down for itself alone, and nothing piles up in between.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import defaultdict
from collections.abc import AsyncIterator

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, StreamingResponse

import serving as serve
from serving.handle import DeploymentHandle, DeploymentResponseGenerator

TOKEN_S = 0.02
MAX_TOKENS = 1000
CORPUS = """
Once upon a time there was a server that never let its clients wait for the end of a story. The
clients loved the server and the server loved the story. When a client went away the story ended
there, and the server began a story for another client. In time the clients told the story of the
server that never let a story wait, and there was a time when all of the clients told it at once.
"""
PAGE = """<!doctype html>
<title>Tokens</title>
<form><input placeholder="Once upon a time" autofocus></form>
<p></p>
<script>
  const socket = new WebSocket(location.href.replace(/^http/, "ws") + "chat");
  const story = document.querySelector("p");
  socket.onmessage = ({data}) => {
    const {token} = JSON.parse(data);
    if (token) story.append(token + " ");
  };
  document.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    story.textContent = "";
    socket.send(document.querySelector("input").value);
  };
</script>
"""

web = FastAPI(title="Tokens")


@serve.deployment
class Model:
    """Continues a prompt with the words that follow each other in its corpus."""

    def __init__(self, corpus: str) -> None:
        self.following: defaultdict[str, list[str]] = defaultdict(list)
        read = corpus.split()
        for word, follower in zip(read, [*read[1:], read[0]], strict=True):
            self.following[bare(word)].append(follower)

    async def generate(self, prompt: str, tokens: int) -> AsyncIterator[str]:
        chance = random.Random(prompt)
        word, made = (prompt.split() or [""])[-1], 0
        try:
            while made < tokens:
                made += 1
                await asyncio.sleep(TOKEN_S)  # a language model would be thinking here
                followers = self.following.get(bare(word)) or [*self.following]
                word = chance.choice(followers)
                yield word
        finally:  # A client that leaves raises CancelledError or GeneratorExit in here.
            if made < tokens:
                print(f"Nobody listens any more: stopped at token {made} of {tokens}.", flush=True)


@serve.deployment
@serve.ingress(web)
class Chat:
    def __init__(self, model: DeploymentHandle[Model]) -> None:
        self.model = model.options(stream=True)

    @web.get("/", response_class=HTMLResponse)
    def page(self) -> str:
        return PAGE

    @web.get("/events")
    async def events(self, prompt: str, tokens: int = 50) -> StreamingResponse:
        return StreamingResponse(
            as_events(self.story(prompt, tokens)), media_type="text/event-stream"
        )

    @web.websocket("/chat")
    async def chat(self, socket: WebSocket) -> None:
        """Answers each prompt with its tokens; a new prompt cuts the old story short."""
        await socket.accept()
        telling: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            async for prompt in socket.iter_text():  # ends when the client leaves
                if telling is not None:
                    telling.cancel()
                telling = tasks.create_task(self.tell(socket, prompt))
            if telling is not None:
                telling.cancel()

    async def tell(self, socket: WebSocket, prompt: str) -> None:
        # Cancelling this task cancels the call that it waits for, and the model stops.
        try:
            async for token in self.story(prompt, tokens=50):
                await socket.send_text(json.dumps({"token": token}))
            await socket.send_text(json.dumps({"done": True}))
        except WebSocketDisconnect:
            return

    def story(self, prompt: str, tokens: int) -> DeploymentResponseGenerator[str]:
        return self.model.generate.remote(prompt, min(tokens, MAX_TOKENS))


async def as_events(tokens: AsyncIterator[str]) -> AsyncIterator[str]:
    async for token in tokens:
        yield f"data: {json.dumps({'token': token})}\n\n"
    yield "event: done\ndata: {}\n\n"


def bare(word: str) -> str:
    return re.sub(r"\W", "", word.lower())


app = Chat.bind(Model.bind(CORPUS))
