"""Calls each method of the service that app.py serves: `python client.py [HOST:PORT]`."""

from __future__ import annotations

import sys

import grpc
from sentiment_pb2 import Text
from sentiment_pb2_grpc import SentimentStub

TEXTS = [Text(text="a great day"), Text(text="an awful, dull evening"), Text(text="and so on")]


def main(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        service = SentimentStub(channel)

        rating = service.Rate(TEXTS[0], timeout=5)
        print(f"Rate: {rating.score}")

        for word in service.Words(TEXTS[1], timeout=5):
            print(f"Words: {word.word} {word.weight}")

        rating = service.RateAll(iter(TEXTS), timeout=5)
        print(f"RateAll: {rating.score:.2f}")

        for rating in service.RateEach(iter(TEXTS), timeout=5):
            print(f"RateEach: {rating.score}")

        try:
            service.Rate(Text(), timeout=5)
        except grpc.RpcError as error:
            print(f"Rate: {error.code().name}, {error.details()}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:9000")
