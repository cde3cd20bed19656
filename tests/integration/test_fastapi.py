"""FastAPI and other ASGI applications, as the ingress of a deployment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

import serving
from tests.integration.apps import fastapi_shop
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.record import Record

pytestmark = pytest.mark.fastapi_compat


class Site:
    """The shop under one of its prefixes."""

    def __init__(self, cluster: Cluster, prefix: str, gate: Gate, record: Record) -> None:
        self.cluster = cluster
        self.base = prefix.rstrip("/")
        self.gate = gate
        self.record = record

    def request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        return self.cluster.request(method, self.base + path, **kwargs)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.request("GET", path, **kwargs)

    def url(self, path: str) -> str:
        return self.cluster.url(self.base + path)


@pytest.fixture(scope="module", params=["/", "/nested/shop"], ids=["root", "nested"])
def shop(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("shop")
    site = Site(cluster, request.param, Gate(folder / "gate"), Record(folder / "record"))
    application = fastapi_shop.Shop.bind("the shop", site.gate, site.record)
    with cluster.running(application, request.param):
        yield site


ITEM = {"name": "pen", "price": 2.5}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "expected"),
    [
        pytest.param("GET", "/", {}, 200, "the shop", id="root"),
        pytest.param(
            "GET",
            "/items/7?q=x",
            {},
            200,
            {"id": 7, "q": "x", "shop": "the shop"},
            id="path-and-query",
        ),
        pytest.param("POST", "/items", {"json": ITEM}, 201, ITEM, id="body-and-response-model"),
        pytest.param(
            "PUT",
            "/mixed/a?count=2",
            {"json": {"item": ITEM}, "headers": {"X-Trace": "t"}},
            200,
            ["a", 2, "pen", "t"],
            id="all-kinds-of-parameters",
        ),
        pytest.param("POST", "/form", {"data": {"user": "ü"}}, 200, "ü", id="form"),
        pytest.param("GET", "/twin", {}, 200, "got", id="duplicate-name-get"),
        pytest.param("POST", "/twin", {}, 200, "posted", id="duplicate-name-post"),
        pytest.param("GET", "/paged?offset=3", {}, 200, [3, 5], id="dependency"),
        pytest.param(
            "GET", "/sold-out/pen", {}, 409, {"out_of_stock": "pen"}, id="exception-handler"
        ),
        pytest.param("GET", "/teapot", {}, 418, {"detail": {"short": "stout"}}, id="http-exc"),
        pytest.param("GET", "/missing", {}, 404, {"detail": "Not Found"}, id="no-route"),
        pytest.param("DELETE", "/twin", {}, 405, {"detail": "Method Not Allowed"}, id="method"),
        pytest.param(
            "GET", "/stock", {}, 200, {"state": {"pen": 2}, "app": True}, id="lifespan-state"
        ),
        pytest.param("GET", "/plain-router", {}, 200, "router of the shop", id="router"),
        pytest.param(
            "GET",
            "/v1/guarded",
            {"headers": {"X-Key": "open"}},
            200,
            "guarded by the shop",
            id="router-with-prefix-and-dependency",
        ),
        pytest.param(
            "GET",
            "/v1/guarded",
            {"headers": {"X-Key": "wrong"}},
            401,
            {"detail": "wrong key"},
            id="dependency-that-refuses",
        ),
        pytest.param("GET", "/sub/method", {}, 200, "sub of the shop", id="mounted-method"),
        pytest.param("GET", "/inherited", {}, 200, "inherited by the shop", id="inherited"),
        pytest.param("GET", "/overridden", {}, 200, "of the shop", id="overridden"),
        pytest.param(
            "GET",
            "/tenant",
            {"headers": {"X-Tenant": "acme"}},
            200,
            ["acme", False],
            id="context-variable-in-thread",
        ),
        pytest.param(
            "GET",
            "/tenant-async",
            {"headers": {"X-Tenant": "acme"}},
            200,
            ["acme", True],
            id="context-variable-in-loop",
        ),
        pytest.param("GET", "/tenant", {}, 200, ["none", False], id="context-of-its-own"),
    ],
)
def test_route_answers(
    shop: Site, method: str, path: str, options: dict[str, Any], status: int, expected: object
) -> None:
    response = shop.request(method, path, **options)

    assert (response.status_code, response.json()) == (status, expected)


@pytest.mark.parametrize(
    ("method", "path", "options", "where"),
    [
        pytest.param("GET", "/items/x", {}, ["path", "item_id"], id="path"),
        pytest.param("GET", "/paged?limit=11", {}, ["query", "limit"], id="query-of-dependency"),
        pytest.param("POST", "/items", {"json": {"price": 1}}, ["body", "name"], id="missing"),
        pytest.param(
            "POST", "/items", {"json": {"name": "a", "price": -1}}, ["body", "price"], id="bound"
        ),
        pytest.param(
            "POST",
            "/items",
            {"data": b"{", "headers": {"content-type": "application/json"}},
            ["body", 1],
            id="no-json",
        ),
        pytest.param("GET", "/v1/guarded", {}, ["header", "x-key"], id="header"),
    ],
)
def test_wrong_parameter_is_told_with_422(
    shop: Site, method: str, path: str, options: dict[str, Any], where: list[object]
) -> None:
    response = shop.request(method, path, **options)

    assert response.status_code == 422
    assert [problem["loc"] for problem in response.json()["detail"]] == [where]


def test_headers_of_an_http_exception_arrive(shop: Site) -> None:
    assert shop.get("/teapot").headers["x-tea"] == "yes"


def test_dependency_that_yields_is_closed_after_each_request(shop: Site) -> None:
    before = shop.get("/closed").json()
    for count in range(before, before + 3):
        assert shop.get("/session").json() == ["session", count]

    until(lambda: shop.get("/closed").json() == before + 3)


def test_middleware_sees_request_and_response(shop: Site) -> None:
    response = shop.get("/twin", headers={"Origin": "https://shop.test"})

    assert response.headers["x-middleware"] == shop.base + "/twin"
    assert response.headers["access-control-allow-origin"] == "https://shop.test"
    assert response.headers["access-control-expose-headers"] == "x-request-id"
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_cookies_of_a_response_parameter_arrive(shop: Site) -> None:
    response = shop.get("/cookies")

    assert [line.split(";")[0] for line in response.raw.headers.getlist("set-cookie")] == [
        "a=1",
        "b=2",
    ]


def test_urls_lead_back_to_their_routes(shop: Site) -> None:
    assert shop.get("/link/3").json() == shop.url("/items/3")
    assert shop.get("/sub/where").json() == {
        "root_path": shop.base + "/sub",
        "url": shop.url("/sub/where"),
    }


def test_slash_is_redirected_below_the_prefix(shop: Site) -> None:
    response = shop.get("/twin/", allow_redirects=False)

    assert (response.status_code, response.headers["location"]) == (307, shop.url("/twin"))


def test_docs_find_their_schema(shop: Site) -> None:
    page = shop.get("/docs")
    (schema_url,) = re.findall(r"url: '([^']+)'", page.text)

    assert schema_url == shop.base + "/openapi.json"
    schema = shop.cluster.get(schema_url).json()
    servers = [server["url"] for server in schema.get("servers", [])]
    assert servers == ([shop.base] if shop.base else [])
    assert set(schema["paths"]) >= {"/", "/items/{item_id}", "/v1/guarded", "/inherited"}
    assert "self" not in str(schema)


def test_docs_of_a_mounted_app_find_their_schema(shop: Site) -> None:
    (schema_url,) = re.findall(r"url: '([^']+)'", shop.get("/sub/docs").text)

    assert schema_url == shop.base + "/sub/openapi.json"
    assert set(shop.cluster.get(schema_url).json()["paths"]) == {"/where", "/method"}


def test_background_task_runs_after_the_response(shop: Site) -> None:
    with shop.gate.closed() as open_gate:
        assert shop.request("POST", "/background/after").json() == "accepted"
        assert "done after" not in shop.record.notes()

        open_gate()
        shop.record.wait_for("done after")


def test_background_task_runs_though_the_client_has_closed(shop: Site) -> None:
    with shop.gate.closed() as open_gate:
        with shop.cluster.wire() as wire:
            wire.send(wire.request(f"POST {shop.base}/background/left"))
            assert wire.read_response() == 200
        # The proxy sees that connection close before it reads from a new one.
        assert shop.get("/twin").status_code == 200

        open_gate()
        shop.record.wait_for("done left")


@pytest.mark.parametrize(
    ("application", "path", "expected"),
    [
        pytest.param(fastapi_shop.Existing.bind(), "/", '"existing"', id="existing-app"),
        pytest.param(fastapi_shop.Existing.bind(), "/items/3", "3", id="existing-app-below"),
        pytest.param(fastapi_shop.Built.bind(), "/", '"built, lock"', id="builder"),
        pytest.param(
            fastapi_shop.PlainStarlette.bind(), "/hello/you", "starlette you", id="starlette"
        ),
        pytest.param(fastapi_shop.Raw.bind(), "/any/path", "GET /p /p/any/path", id="raw-asgi"),
    ],
)
def test_application_of_another_kind_is_served(
    cluster: Cluster, application: serving.Application, path: str, expected: str
) -> None:
    with cluster.running(application, "/p"):
        response = cluster.get("/p" + path)

    assert (response.status_code, response.text) == (200, expected)


def test_request_id_of_an_application_is_kept_however_it_is_written(cluster: Cluster) -> None:
    with cluster.running(fastapi_shop.Raw.bind()):
        response = cluster.get("/")

    assert response.raw.headers.getlist("x-request-id") == ["of the app"]
