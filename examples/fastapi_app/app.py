"""A FastAPI application whose routes are methods of a class that holds the model.

With the virtual environment of `make demo` activated (`. ../../.venv/bin/activate`), run it in this
folder with `serving run app:app`, and ask it something:

    curl -X POST http://localhost:8000/score \
        -H 'Content-Type: application/json' -d '{"text": "a great, great day"}'

Its documentation is at http://localhost:8000/docs.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, Field

import serving as serve

api = FastAPI(title="Sentiment")


class Text(BaseModel):
    text: str = Field(min_length=1, max_length=10_000)


class Score(BaseModel):
    score: float = Field(description="From -1, which is bad, to 1, which is good.")
    words: list[str] = Field(description="The words that decided it.")


@serve.deployment
@serve.ingress(api)
class Sentiment:
    """Scores texts by the words in them. A real model would be loaded in the constructor too."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights

    @api.post("/score")
    def score(self, body: Text) -> Score:
        words = [word for word in re.findall(r"\w+", body.text.lower()) if word in self.weights]
        total = sum(self.weights[word] for word in words)
        return Score(score=total / max(1, len(words)), words=words)

    @api.get("/words")
    def words(self, at_least: Annotated[float, Query(ge=-1, le=1)] = -1) -> list[str]:
        return sorted(word for word, weight in self.weights.items() if weight >= at_least)

    @api.get("/words/{word}")
    def weight(self, word: str) -> float:
        if word not in self.weights:
            raise HTTPException(404, f"the model does not know {word!r}")
        return self.weights[word]


app = Sentiment.bind({"great": 1.0, "good": 0.5, "dull": -0.5, "awful": -1.0})
