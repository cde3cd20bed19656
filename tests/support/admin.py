"""Asking the REST API."""

from __future__ import annotations

from typing import Any

import requests

from tests.support.control import DEADLINE_S

PATH = "/api/serve/applications/"


def ask(url: str, method: str = "GET", path: str = PATH, **kwargs: Any) -> requests.Response:
    return requests.request(method, f"{url}{path}", timeout=DEADLINE_S, **kwargs)
