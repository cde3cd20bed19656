"""A text pipeline: four deployments, each in a process of its own, called in parallel.

With the virtual environment of `make demo` activated (`. ../../.venv/bin/activate`), run it in this
folder with `serving run app:app`, and ask it something:

    curl -X POST http://localhost:8000/analyse -H 'Content-Type: application/json' \
        -d '{"text": "The tea was great. The tea pot is dull. We drank tea and talked of tea."}'

                      ┌─▶ Sentiment                   both at once
    Pipeline ─▶ Splitter
                      └─▶ Keywords ─▶ Summarizer      one's answer is the other's argument

Each of them scales by itself: `Keywords.options(num_replicas=4)`. A client that leaves, or the time
limit below, ends whatever is still at work for it, in all of them.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

import serving as serve
from serving.handle import DeploymentHandle

TIME_LIMIT_S = 5.0
STOP_WORDS = {"a", "and", "as", "at", "for", "in", "is", "it", "of", "on", "the", "to", "was", "we"}

web = FastAPI(title="Text pipeline")


class Text(BaseModel):
    text: str = Field(min_length=1, max_length=100_000)
    sentences: int = Field(default=1, ge=1, le=10, description="How long the summary may be.")


class Analysis(BaseModel):
    sentiment: float = Field(description="From -1, which is bad, to 1, which is good.")
    keywords: list[str]
    summary: list[str]


@serve.deployment
class Splitter:
    async def __call__(self, text: str) -> list[str]:
        return [part.strip() for part in re.findall(r"[^.!?]+[.!?]*", text) if part.strip()]


@serve.deployment
class Sentiment:
    """A real model would be loaded in the constructor too."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights

    # A plain `def` runs in a thread: it may take its time, and blocks no other request.
    def __call__(self, sentences: list[str]) -> float:
        found = [self.weights[word] for word in words(sentences) if word in self.weights]
        return round(sum(found) / max(1, len(found)), 3)


@serve.deployment
class Keywords:
    def __call__(self, sentences: list[str], most: int = 5) -> list[str]:
        counts = Counter(word for word in words(sentences) if word not in STOP_WORDS)
        return [word for word, _ in counts.most_common(most)]


@serve.deployment
class Summarizer:
    """Picks the sentences that say most of the keywords, in the order of the text."""

    def __call__(self, sentences: list[str], keywords: list[str], most: int) -> list[str]:
        def weight(number: int) -> int:
            return len(set(words([sentences[number]])) & set(keywords))

        best = sorted(range(len(sentences)), key=weight, reverse=True)[:most]
        return [sentences[number] for number in sorted(best)]


@serve.deployment
@serve.ingress(web)
class Pipeline:
    """The bound deployments arrive here as handles."""

    def __init__(
        self,
        splitter: DeploymentHandle[Splitter],
        sentiment: DeploymentHandle[Sentiment],
        keywords: DeploymentHandle[Keywords],
        summarizer: DeploymentHandle[Summarizer],
    ) -> None:
        self.splitter = splitter
        self.sentiment = sentiment
        self.keywords = keywords
        self.summarizer = summarizer

    @web.post("/analyse")
    async def analyse(self, body: Text) -> Analysis:
        # A call begins at `remote`. A response may be an argument of the next call: that one waits
        # for it, this code does not.
        sentences = self.splitter.remote(body.text)
        sentiment = self.sentiment.remote(sentences)
        keywords = self.keywords.remote(sentences)
        summary = self.summarizer.remote(sentences, keywords, most=body.sentences)
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                found = await asyncio.gather(sentiment, keywords, summary)
        except TimeoutError:  # What still ran has been cancelled.
            raise HTTPException(503, "the text takes too long to read") from None
        return Analysis(sentiment=found[0], keywords=found[1], summary=found[2])


def words(sentences: list[str]) -> list[str]:
    return [word for sentence in sentences for word in re.findall(r"\w+", sentence.lower())]


app = Pipeline.bind(
    Splitter.bind(),
    Sentiment.bind({"great": 1.0, "good": 0.5, "dull": -0.5, "awful": -1.0}),
    Keywords.bind(),
    Summarizer.bind(),
)
