"""Serves the application of app.py, asks it something, and ends: `python demo.py`."""

from __future__ import annotations

from urllib.request import urlopen

from app import app

import serving as serve


def main() -> None:
    cluster = serve.start(http_options={"port": 0})  # any free port
    serve.run(app)
    url = f"http://127.0.0.1:{cluster.http_port}/?name=Ada"
    print(f"GET {url}")
    with urlopen(url, timeout=10) as answer:
        print(f"{answer.status} {answer.read().decode()}")
    serve.shutdown()


if __name__ == "__main__":
    main()
