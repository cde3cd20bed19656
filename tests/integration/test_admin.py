"""The REST API of a cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

import serving
from serving.admin.details import InstanceDetails
from tests.support.admin import PATH, ask
from tests.support.control import DEADLINE_S, isolate, until
from tests.support.processes import processes


@serving.deployment(num_replicas=2, user_config={"greeting": "hello"})
class Greeter:
    def reconfigure(self, config: dict[str, str]) -> None:
        self.greeting = config["greeting"]

    async def __call__(self, request: object) -> str:
        return self.greeting


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the REST API of the module's cluster."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("admin"))
        try:
            yield serving.start(admin_options={}).admin_url
        finally:
            serving.shutdown()


def the_process(module: str) -> psutil.Process:
    (process,) = until(lambda: processes(module))
    return process


def kill(module: str) -> None:
    """Kills it and waits for the next one."""
    killed = the_process(module).pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: the_process(module).pid != killed)


def test_get_tells_what_runs_and_delete_ends_it_but_not_the_cluster(url: str) -> None:
    serving.run(Greeter.bind(), name="greet", route_prefix="/greet")

    response = ask(url)

    assert response.headers["content-type"] == "application/json"
    details = InstanceDetails.model_validate(response.json())
    application = details.applications["greet"]
    assert (application.status, application.route_prefix) == ("RUNNING", "/greet")
    deployment = application.deployments["Greeter"]
    assert (deployment.status, deployment.target_num_replicas) == ("HEALTHY", 2)
    assert deployment.status_trigger == "CONFIG_UPDATE_COMPLETED"
    assert deployment.deployment_config.user_config == {"greeting": "hello"}
    assert {replica.pid for replica in deployment.replicas} == {
        process.pid for process in processes("serving.replica")
    }
    assert details.http_options is not None
    assert details.http_options.port == serving.status().http_port

    assert ask(url, "DELETE").status_code == 200

    until(lambda: ask(url).json()["applications"] == {})
    assert ask(url, "DELETE").status_code == 200


def test_put_makes_the_config_what_runs(url: str) -> None:
    serving.run(Greeter.bind(), name="greet", route_prefix="/greet")
    application = {
        "name": "put",
        "route_prefix": "/put",
        "import_path": "examples.quickstart.app:app",
        "deployments": [{"name": "Greeter", "num_replicas": 2}],
    }

    response = ask(url, "PUT", json={"applications": [application]})

    assert (response.status_code, response.text) == (200, "")
    until(lambda: ask(url).json()["applications"].keys() == {"put"})
    until(lambda: ask(url).json()["applications"]["put"]["status"] == "RUNNING")
    told = ask(url).json()["applications"]["put"]
    assert told["deployed_app_config"] == application
    assert told["source"] == "declarative"
    assert told["deployments"]["Greeter"]["target_num_replicas"] == 2
    assert requests.get(f"{serving.status().url}/put", timeout=DEADLINE_S).status_code == 200

    again = ask(url, "PUT", json={"applications": [application]})

    assert again.status_code == 200
    after = ask(url).json()["applications"]["put"]
    assert after["last_deployed_time_s"] == told["last_deployed_time_s"]
    assert ask(url, "PUT", json={"applications": []}).status_code == 200
    until(lambda: ask(url).json()["applications"] == {})


@pytest.mark.parametrize(
    ("config", "status", "message"),
    [
        (
            b'{"applications": [{"name": "x", "import_pat": "a:b", "import_path": "a:b"}]}',
            400,
            "applications[0].import_pat: there is no key 'import_pat' here; did you mean ",
        ),
        (b"{not json", 400, "1:10: is not YAML: "),
        (
            b'{"applications": [{"name": "x", "import_path": "nothing:app"}]}',
            422,
            "Nothing was changed: not all applications of the config can be deployed\n"
            "serving: applications[0].import_path: no module 'nothing' in ",
        ),
        (
            b'{"applications": [{"name": "x", "import_path": "examples.quickstart.app:app",'
            b' "deployments": [{"name": "no"}]}]}',
            422,
            "Nothing was changed: not all applications of the config can be deployed\n"
            "serving: applications[0].deployments[0].name: ",
        ),
    ],
    ids=["mistake", "no JSON", "no module", "no deployment"],
)
def test_config_that_is_wrong_is_told_and_changes_nothing(
    url: str, config: bytes, status: int, message: str
) -> None:
    response = ask(url, "PUT", data=config)

    assert (response.status_code, response.headers["content-type"]) == (
        status,
        "text/plain; charset=utf-8",
    )
    assert response.text.startswith(message)
    assert "Traceback" not in response.text
    assert "x" not in ask(url).json()["applications"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}],
    ids=lambda headers: "=".join(next(iter(headers.items()))),
)
@pytest.mark.parametrize("path", [PATH, "/docs", "/nothing"])
def test_what_a_web_page_sends_is_refused_whatever_the_verb(
    url: str, method: str, headers: dict[str, str], path: str
) -> None:
    response = ask(url, method, path, headers=headers)

    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


def test_page_of_the_api_itself_may_use_it(url: str) -> None:
    assert ask(url, headers={"Origin": url}).status_code == 200


def test_other_verbs_and_paths_are_refused(url: str) -> None:
    assert ask(url, "POST").status_code == 405
    assert ask(url, path="/api/serve/nothing").status_code == 404
    assert ask(url, path=PATH.rstrip("/")).status_code == 200  # redirected


def test_put_deploys_a_config_and_tells_its_mistakes(url: str) -> None:
    section = {
        "name": "hello",
        "route_prefix": "/hello",
        "import_path": "examples.quickstart.app:app",
    }

    assert ask(url, "PUT", json={"applications": [section]}).text == ""

    application = until(lambda: ask(url).json()["applications"].get("hello"))
    assert application["source"] == "declarative"
    assert application["deployed_app_config"] == section
    mistaken = ask(url, "PUT", json={"applications": [section | {"nam": "hello"}]})
    assert mistaken.status_code == 400
    assert mistaken.text.startswith(
        "applications[0].nam: there is no key 'nam' here; did you mean 'name'?"
    )
    assert ask(url, "PUT", json={"applications": []}).status_code == 200
    until(lambda: ask(url).json()["applications"] == {})


def test_put_of_an_application_that_cannot_be_imported_changes_nothing(
    url: str, tmp_path: Path
) -> None:
    kept = {"name": "kept", "import_path": "examples.quickstart.app:app"}
    assert ask(url, "PUT", json={"applications": [kept]}).status_code == 200
    before = until(lambda: ask(url).json()["applications"].get("kept"))
    (tmp_path / "broken_app.py").write_text("\n1 / 0\n")
    broken = {
        "name": "broken",
        "route_prefix": "/broken",
        "import_path": "broken_app:app",
        "runtime_env": {"working_dir": str(tmp_path)},
    }
    changed = kept | {"deployments": [{"name": "Greeter", "num_replicas": 2}]}

    response = ask(url, "PUT", json={"applications": [changed, broken]})

    assert response.status_code == 422
    assert f'{tmp_path / "broken_app.py"}", line 2' in response.text
    assert "ZeroDivisionError: division by zero" in response.text
    assert "Nothing was changed" in response.text
    after = ask(url).json()["applications"]
    assert after.keys() == {"kept"}
    assert after["kept"]["last_deployed_time_s"] == before["last_deployed_time_s"]
    assert ask(url, "PUT", json={"applications": []}).status_code == 200
    until(lambda: ask(url).json()["applications"] == {})


def test_config_that_is_too_large_is_refused(url: str) -> None:
    assert ask(url, "PUT", data=b"x" * (5 * 1024 * 1024)).status_code == 413


def test_api_describes_itself_with_nothing_from_the_net(url: str) -> None:
    description = ask(url, path="/openapi.json").json()

    assert description["openapi"].startswith("3.1")
    assert description["paths"][PATH].keys() == {"get", "put", "delete"}
    assert "InstanceDetails" in description["components"]["schemas"]
    page = ask(url, path="/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert PATH in page.text


def test_api_is_back_after_the_death_of_the_controller_and_of_its_own_process(url: str) -> None:
    serving.run(Greeter.bind(), name="greet", route_prefix="/greet")

    kill("serving.controller")
    # Asked meanwhile, it waits for the next controller.
    assert ask(url).json()["applications"]["greet"]["status"] in ("RUNNING", "DEPLOYING")
    until(lambda: ask(url).json()["applications"]["greet"]["status"] == "RUNNING")

    kill("serving.admin")
    # Its connections wait in the socket's backlog.
    assert ask(url).json()["applications"]["greet"]["status"] == "RUNNING"
    serving.delete("greet")
