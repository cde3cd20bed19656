"""Config files: `serving deploy`, `config`, `build`, `check` and `run CONFIG.yaml`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import serving
from serving.cli.exit_codes import ExitCode
from tests.support.control import ended, read_until, until

APP = """
import os
import serving
import helper
from pydantic import BaseModel

@serving.deployment(max_ongoing_requests=7, user_config={"a": [1, None]})
class Hello:
    def reconfigure(self, config):
        self.config = config

    def __call__(self, request):
        return f"{helper.text()} {os.environ.get('WHO')} {self.config}"

app = Hello.bind()

class Arguments(BaseModel):
    words: list[str]

@serving.deployment
class Says:
    def __init__(self, words):
        self.words = words

    def __call__(self, request):
        return " ".join(self.words)

def build(arguments: Arguments):
    return Says.bind(arguments.words)

@serving.deployment
class Waits:
    def __init__(self):
        while not os.path.exists("gate"):
            time.sleep(0.05)

    def __call__(self, request):
        return "open"

waits = Waits.bind()

def two(context):
    return 2

@serving.deployment(
    autoscaling_config={
        "max_replicas": 9,
        "metrics_interval_s": 0.1,
        "upscale_delay_s": 0,
        "policy": {"policy_function": two},
    }
)
class Scaled:
    def __call__(self, request):
        return "scaled"

scaled = Scaled.bind()
"""


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That of a cluster which the tests share."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SERVING_ADDRESS", raising=False)
        patch.setenv("SERVING_STATE_DIR", str(folder))
        patch.setenv("SERVING_HTTP_PORT", "0")
        serve("start")
        yield folder
        serve("shutdown")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose answers come from a module two imports deep."""
    (tmp_path / "app.py").write_text(f"import time\n{APP}")
    (tmp_path / "helper.py").write_text("from texts import TEXT\ndef text(): return TEXT\n")
    (tmp_path / "texts.py").write_text("TEXT = 'one'\n")
    return tmp_path


def serve(*arguments: str, code: int = 0, cwd: Path | None = None) -> str:
    """Runs a command, and gives what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "serving.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def deploy(folder: Path, config: str, *options: str, code: int = 0) -> str:
    (folder / "config.yaml").write_text(config)
    return serve("deploy", "config.yaml", *options, code=code, cwd=folder)


def get(path: str) -> str:
    return requests.get(f"{serving.status().url}{path}", timeout=20).text


def replicas() -> dict[str, list[int]]:
    """The process numbers of each application's replicas."""
    from serving import api

    return {
        application.name: [
            replica.pid
            for deployment in application.deployments
            for replica in deployment.replicas
            if replica.state == "RUNNING"
        ]
        for application in api.cluster_status().applications
    }


TWO = """
applications:
- name: hello
  route_prefix: /hello
  import_path: app:app
  runtime_env:
    env_vars: {WHO: me}
  deployments:
  - name: Hello
    num_replicas: 2
    user_config: {b: 2}
- name: says
  route_prefix: /says
  import_path: app.build
  args:
    words: [so, it, says]
"""
ONE = TWO[: TWO.index("- name: says")]


def test_deploy_is_the_whole_target_and_the_same_again_changes_nothing(
    state_dir: Path, folder: Path
) -> None:
    deploy(folder, TWO)
    assert get("/hello") == "one me {'b': 2}"
    assert get("/says") == "so it says"
    before = replicas()
    assert len(before["hello"]) == 2

    said = deploy(folder, TWO)

    assert replicas() == before
    assert said.count(", unchanged") == 2

    said = deploy(folder, ONE)

    assert "Application 'says', which is not in the config, is deleted" in said
    assert replicas() == {"hello": before["hello"]}

    # What is printed is a config of the same.
    (folder / "printed.yaml").write_text(serve("config"))
    assert "unchanged" in serve("deploy", "printed.yaml", cwd=folder)
    assert replicas() == {"hello": before["hello"]}


def test_deploy_picks_up_a_module_two_imports_deep(state_dir: Path, folder: Path) -> None:
    deploy(folder, TWO)
    (folder / "texts.py").write_text("TEXT = 'two'\n")

    deploy(folder, TWO)

    assert get("/hello").startswith("two")


def test_applications_may_exchange_their_route_prefixes(state_dir: Path, folder: Path) -> None:
    deploy(folder, TWO)
    swapped = TWO.replace("/hello", "/x").replace("/says", "/hello").replace("/x", "/says")

    said = deploy(folder, swapped)

    assert said.count("is ready at") == 2
    assert get("/says") == "one me {'b': 2}"
    assert get("/hello") == "so it says"


def test_broken_application_refuses_the_file_and_what_ran_serves_on(
    state_dir: Path, folder: Path
) -> None:
    deploy(folder, TWO)
    helper = (folder / "helper.py").read_text()
    broken = TWO.replace("app:app", "app:ap").replace("[so, it, says]", "[new]")

    said = deploy(folder, broken, code=ExitCode.DEPLOY_FAILED)

    assert "config.yaml:5:16: applications[0].import_path: module 'app' has no attribute" in said
    assert "Nothing was changed" in said
    assert get("/hello") == "one me {'b': 2}"
    assert get("/says") == "so it says"

    too_large = TWO.replace("num_replicas: 2", "ray_actor_options: {num_gpus: 99}")
    said = deploy(folder, too_large.replace("[so, it", "[new"), code=ExitCode.USAGE)

    assert "deployment 'Hello' asks for more than any machine has" in said
    assert get("/says") == "so it says"

    (folder / "helper.py").write_text("1 / 0\n")
    said = deploy(folder, TWO, code=ExitCode.DEPLOY_FAILED)

    assert "ZeroDivisionError" in said
    assert f'{folder / "helper.py"}", line 1' in said
    assert get("/hello") == "one me {'b': 2}"
    (folder / "helper.py").write_text(helper)

    said = deploy(folder, TWO.replace("name: Hello", "name: Helo"), code=ExitCode.DEPLOY_FAILED)

    assert (
        "config.yaml:9:11: applications[0].deployments[0].name: the application has no deployment "
        "'Helo'; did you mean 'Hello'? (it has: Hello)"
    ) in said


def test_file_with_mistakes_changes_nothing(state_dir: Path, folder: Path) -> None:
    deploy(folder, TWO)
    before = replicas()

    said = deploy(folder, ONE.replace("num_replicas: 2", "num_replica: 1"), code=ExitCode.USAGE)

    assert said.startswith("config.yaml:10:5: applications[0].deployments[0].num_replica: there is")
    assert replicas() == before


def test_deploy_waits_for_as_long_as_it_is_told(state_dir: Path, folder: Path) -> None:
    config = f"""
applications:
- import_path: app:waits
  runtime_env: {{env_vars: {{GATE: "{folder / "gate"}"}}}}
"""
    source = (folder / "app.py").read_text()
    (folder / "app.py").write_text(source.replace('"gate"', 'os.environ["GATE"]'))

    said = deploy(folder, config, "--timeout-s", "4", code=ExitCode.TIMEOUT)
    assert "application 'default' is not ready after 4 s; deployment '" in said
    assert "has 0 of 1 replicas ready" in said

    assert "is being deployed" in deploy(folder, config, "--no-wait")

    (folder / "gate").touch()
    assert "is ready" in deploy(folder, config)
    assert get("/") == "open"


def test_options_that_a_running_cluster_does_not_have_are_told(
    state_dir: Path, folder: Path
) -> None:
    said = deploy(folder, "http_options: {host: 0.0.0.0, port: 0}\napplications: []\n")

    assert (
        "config.yaml:1:22: warning: http_options.host: is '127.0.0.1' in the running cluster, "
        "which keeps it until it ends"
    ) in said
    assert "port" not in said


def test_built_file_deploys_what_the_code_gives(state_dir: Path, folder: Path) -> None:
    deploy(folder, "applications:\n- import_path: app:app\n")
    before = replicas()

    serve("build", "app:app", "-o", "built.yaml", cwd=folder)
    built = (folder / "built.yaml").read_text()
    serve("deploy", "built.yaml", cwd=folder)

    assert "max_ongoing_requests: 7" in built
    assert replicas() == before
    assert get("/") == "one None {'a': [1, None]}"


SCALED = """
applications:
- import_path: app:scaled
  deployments:
  - name: Scaled
    num_replicas: auto
    autoscaling_config:
      min_replicas: 0
      initial_replicas: 1
      metrics_interval_s: 0.1
      upscale_delay_s: 0
      policy: {policy_function: policies.asked}
"""


def test_policy_of_a_config_is_shown_by_its_path_and_followed_when_it_changes(
    state_dir: Path, folder: Path
) -> None:
    (folder / "policies.py").write_text("def asked(context): return 3\n")
    deploy(folder, SCALED)
    until(lambda: len(replicas()["default"]) == 3)
    assert "policy_function: policies.asked" in serve("config")
    assert "unchanged" in deploy(folder, SCALED)

    (folder / "policies.py").write_text("def asked(context): return 4\n")
    deploy(folder, SCALED)

    until(lambda: len(replicas()["default"]) == 4)


def test_policy_in_the_code_is_built_and_deployed_by_its_path(
    state_dir: Path, folder: Path
) -> None:
    deploy(folder, "applications: []\n")
    until(lambda: not serving.status().applications)
    serve("build", "app:scaled", "-o", "built.yaml", cwd=folder)
    assert "policy_function: app:two" in (folder / "built.yaml").read_text()

    serve("deploy", "built.yaml", cwd=folder)
    until(lambda: len(replicas()["default"]) == 2)


def test_run_serves_a_file_with_its_own_options_until_interrupted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("SERVING_ADDRESS", raising=False)
    file = folder / "config.yaml"
    file.write_text(f"http_options: {{port: 0, root_path: /root}}\n{ONE}")
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.cli", "run", "config.yaml", "--reload"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )
    with process, ended(process):
        url = read_until(process, "is ready at").split()[-1]
        assert requests.get(url, timeout=20).text == "one me {'b': 2}"

        file.write_text(file.read_text().replace("{b: 2}", "{b: 3}"))
        until(lambda: requests.get(url, timeout=20).text == "one me {'b': 3}")

        right = file.read_text()
        file.write_text(right.replace("num_replicas: 2", "num_replica: 2"))
        assert read_until(process, "num_replica").startswith("config.yaml:")
        assert requests.get(url, timeout=20).text == "one me {'b': 3}"
        file.write_text(right.replace("{b: 3}", "{b: 4}"))
        until(lambda: requests.get(url, timeout=20).text == "one me {'b': 4}")

        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_check_finds_mistakes_without_a_cluster(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_STATE_DIR", str(tmp_path / "none"))
    (folder / "good.yaml").write_text(TWO)
    (folder / "bad.yaml").write_text("applications:\n- import_path: app:apps\n")
    (folder / "worse.yaml").write_text("applications:\n- import_path: 1\n")

    (folder / "called.yaml").write_text("applications:\n- import_path: app:Arguments\n")

    assert serve("check", "good.yaml", "called.yaml", cwd=folder).splitlines() == [
        "good.yaml: no mistakes",
        "called.yaml: no mistakes",
    ]
    said = serve("check", "--import", "bad.yaml", "worse.yaml", code=ExitCode.USAGE, cwd=folder)
    assert said.splitlines() == [
        "bad.yaml:2:16: applications[0].import_path: module 'app' has no attribute 'apps'; "
        "did you mean 'app'?",
        "worse.yaml:2:16: applications[0].import_path: must be text; got 1, which is no text: put "
        "it in quotes",
    ]
    assert "no cluster runs" in serve("deploy", "good.yaml", code=ExitCode.FAILED, cwd=folder)
    for command in ("deploy", "check", "run"):
        said = serve(command, "nothere.yaml", code=ExitCode.USAGE, cwd=folder)
        assert said == "serving: nothere.yaml cannot be read: No such file or directory\n"


def test_what_an_option_names_in_vain_is_told_at_its_own_line(folder: Path) -> None:
    (folder / "options.yaml").write_text("""applications:
- import_path: app:app
  runtime_env:
    working_dir: gone
- name: policy
  route_prefix: /policy
  import_path: app:app
  deployments:
  - name: Hello
    autoscaling_config:
      policy:
        policy_function: gone:function
""")

    said = serve("check", "--import", "options.yaml", code=ExitCode.USAGE, cwd=folder)

    assert said.splitlines() == [
        "options.yaml:4:18: applications[0].runtime_env.working_dir: "
        f"there is no {folder / 'gone'}",
        "options.yaml:12:26: applications[1].deployments[0].autoscaling_config.policy."
        "policy_function: deployment 'Hello': option 'autoscaling_config.policy.policy_function': "
        "'gone:function' cannot be imported: No module named 'gone'",
    ]


def test_schema_is_printed() -> None:
    assert json.loads(serve("schema"))["required"] == ["applications"]
