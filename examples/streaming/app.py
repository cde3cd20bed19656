"""Text that reaches the client word by word, as server-sent events.

With the virtual environment of `make demo` activated (`. ../../.venv/bin/activate`), run it in this
folder with `serving run app:app`, and watch the words come:

    curl -N 'http://localhost:8000/?words=20'

Stop curl early, and the storyteller says that nobody listens any more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import cycle, islice

from starlette.requests import Request
from starlette.responses import StreamingResponse

import serving as serve

STORY = "Once upon a time there was a server that never let its clients wait for the end."


@serve.deployment
class Storyteller:
    def __call__(self, request: Request) -> StreamingResponse:
        words = int(request.query_params.get("words", "16"))
        return StreamingResponse(self.tell(words), media_type="text/event-stream")

    async def tell(self, words: int) -> AsyncIterator[str]:
        try:
            for word in islice(cycle(STORY.split()), words):
                yield f"data: {json.dumps(word)}\n\n"
                await asyncio.sleep(0.05)  # a language model would be thinking here
        except asyncio.CancelledError:
            print("The listener left.", flush=True)
            raise


app = Storyteller.bind()
