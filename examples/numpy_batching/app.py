"""A NumPy model whose requests share its matrix products: each client sends one point, the model
sees batches.

With the virtual environment of `make demo` activated (`. ../../.venv/bin/activate`) and NumPy in
it (`pip install numpy`), run it in this folder with `serving run app:app`. The model learns to
tell the three arms of a spiral apart, which takes a second; then ask for a point, or for many:

    curl 'http://localhost:8000/arm?x=0.5&y=0.1'
    seq 200 | xargs -P50 -I{} curl -sw '\n' 'http://localhost:8000/arm?x=0.5&y=0' | sort | uniq -c

Each answer tells how many shared its batch. A lone request waits 5 ms for company, a full batch not
at all; and a client that leaves while it waits takes its point out of the batch.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query
from pydantic import BaseModel, Field

import serving as serve
from serving.handle import DeploymentHandle

Array = np.ndarray[Any, np.dtype[Any]]

web = FastAPI(title="Spiral")


class Answer(BaseModel):
    arm: int
    confidence: float
    batch: int = Field(description="How many points were classified together.")


@serve.deployment(user_config={"max_batch_size": 64, "batch_wait_timeout_s": 0.005})
class Spiral:
    """Two layers, trained in the constructor. A real model would load its weights there."""

    def __init__(self, steps: int = 1500) -> None:
        chance = np.random.default_rng(seed=7)
        points, arms = spiral(chance)
        self.layers = train(points, arms, chance, steps)

    def reconfigure(self, config: dict[str, Any]) -> None:
        self.classify.set_max_batch_size(config["max_batch_size"])
        self.classify.set_batch_wait_timeout_s(config["batch_wait_timeout_s"])

    # Callers pass one point and get one answer; it runs in a thread, beside the event loop.
    @serve.batch
    def classify(self, points: list[tuple[float, float]]) -> list[Answer]:
        _, chances = forward(self.layers, np.array(points))
        return [
            Answer(arm=int(row.argmax()), confidence=round(float(row.max()), 3), batch=len(points))
            for row in chances
        ]

    async def __call__(self, x: float, y: float) -> Answer:
        return await self.classify((x, y))


Coordinate = Annotated[float, Query(ge=-1, le=1)]


@serve.deployment
@serve.ingress(web)
class Ingress:
    def __init__(self, model: DeploymentHandle[Spiral]) -> None:
        self.model = model

    @web.get("/arm")
    async def arm(self, x: Coordinate, y: Coordinate) -> Answer:
        return await self.model.remote(x, y)


def spiral(chance: np.random.Generator, each: int = 200) -> tuple[Array, Array]:
    """Points of three arms, and the number of each one's arm."""
    radius = np.tile(np.linspace(0.1, 1, each), 3)
    arms = np.repeat(np.arange(3), each)
    angle = arms * 2 * np.pi / 3 + 3 * radius + chance.normal(0, 0.1, 3 * each)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), arms


def forward(layers: list[Array], points: Array) -> tuple[Array, Array]:
    """What the hidden layer says, and the chance of each arm."""
    weights, bias, out, out_bias = layers
    hidden = np.maximum(0, points @ weights + bias)
    scores = hidden @ out + out_bias
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, exponents / exponents.sum(axis=1, keepdims=True)


def train(points: Array, arms: Array, chance: np.random.Generator, steps: int) -> list[Array]:
    """Plain gradient descent on the cross entropy."""
    layers = [
        chance.normal(0, 1, (2, 64)),
        chance.normal(0, 1, 64),
        chance.normal(0, 0.1, (64, 3)),
        np.zeros(3),
    ]
    truth = np.eye(3)[arms]
    for _ in range(steps):
        hidden, chances = forward(layers, points)
        wrong = (chances - truth) / len(points)
        back = (wrong @ layers[2].T) * (hidden > 0)
        steepest = [points.T @ back, back.sum(axis=0), hidden.T @ wrong, wrong.sum(axis=0)]
        layers = [layer - slope for layer, slope in zip(layers, steepest, strict=True)]
    return layers


app = Ingress.bind(Spiral.bind())
