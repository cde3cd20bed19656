"""A gRPC service with the four kinds of call, and a model behind it in processes of its own.

With the virtual environment of `make demo` activated (`. ../../.venv/bin/activate`), run in this
folder

    pip install grpcio-tools
    python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. sentiment.proto
    serving run config.yaml

and call it from another terminal with `python client.py`, or with any other gRPC client:

    grpcurl -plaintext -d '{"text": "a great day"}' localhost:9000 sentiment.Sentiment/Rate

The second command makes sentiment_pb2.py and sentiment_pb2_grpc.py, which are imported below.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import grpc
from sentiment_pb2 import Rating, Text, Word

import serving as serve
from serving.grpc_util import GrpcContext
from serving.handle import DeploymentHandle


@serve.deployment
class Model:
    """A real one would be loaded in the constructor too."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights

    # A plain `def` runs in a thread: it may take its time, and blocks no other call.
    def known(self, text: str) -> dict[str, float]:
        words = re.findall(r"\w+", text.lower())
        return {word: self.weights[word] for word in words if word in self.weights}


@serve.deployment
class Sentiment:
    """Its methods have the names of the service's RPCs."""

    def __init__(self, model: DeploymentHandle[Model]) -> None:
        self.model = model

    async def Rate(self, text: Text, grpc_context: GrpcContext) -> Rating:
        if not text.text:
            grpc_context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the text is empty")
        return Rating(score=mean(await self.weights_in(text)))

    async def Words(self, text: Text) -> AsyncIterator[Word]:
        for word, weight in (await self.model.known.remote(text.text)).items():
            yield Word(word=word, weight=weight)

    async def RateAll(self, texts: AsyncIterator[Text]) -> Rating:
        weights = [weight async for text in texts for weight in await self.weights_in(text)]
        return Rating(score=mean(weights))

    async def RateEach(self, texts: AsyncIterator[Text]) -> AsyncIterator[Rating]:
        async for text in texts:
            yield Rating(score=mean(await self.weights_in(text)))

    async def weights_in(self, text: Text) -> list[float]:
        return list((await self.model.known.remote(text.text)).values())


def mean(weights: list[float]) -> float:
    return sum(weights) / max(1, len(weights))


app = Sentiment.bind(Model.bind({"great": 1.0, "good": 0.5, "dull": -0.5, "awful": -1.0}))
