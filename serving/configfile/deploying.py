"""Deploying a config: it says all that is to run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from serving.configfile.importing import ApplicationImportError, import_all, wanted
from serving.configfile.mistakes import ConfigError, Mistake
from serving.configfile.schema import ServeApplicationSchema, ServeDeploySchema
from serving.exceptions import ServingError
from serving.v1 import controller_pb2 as pb


class Controller(Protocol):
    """What a config is deployed to."""

    def generations(self) -> Mapping[str, int]:
        """Of all applications that are not being deleted, by their names."""
        ...

    def deploy(self, *specs: pb.ApplicationSpec, alone: bool = False) -> dict[str, int]:
        """Sets the targets of applications, of all or of none, and deletes all others where these
        are to be `alone`; returns their generations. Raises ServingError, or ValueError for what is
        wrong with them."""
        ...


@dataclass
class Deployed:
    """What became of the applications of a config."""

    generations: dict[str, int] = field(default_factory=dict)
    """Of those that are deployed, by their names: of all, or of none."""
    unchanged: set[str] = field(default_factory=set)
    """Those of them that ran already, just so."""
    failures: dict[str, ServingError] = field(default_factory=dict)
    """Why some are not as wanted: what ran before of these runs on."""
    deleted: list[str] = field(default_factory=list)
    """Those that ran and are not in the config."""

    @property
    def serves(self) -> bool:
        """Whether any of them is as wanted."""
        return bool(self.generations.keys() - self.failures.keys())


def deploy_config(
    config: ServeDeploySchema,
    controller: Controller,
    *,
    app_dir: Path,
    base: Path,
    timeout_s: float,
    salt: str = "",
    answers_grpc: bool = False,
) -> Deployed:
    """Makes the applications of a config those of a cluster, and returns without waiting for them.

    Applications that are not in it are deleted. Where one cannot be imported nothing is changed.

    Raises ConfigError where the cluster refuses one, and ServingError where it does not answer:
    nothing was changed then either.

    Arguments:
        config: what `serving.configfile.validation` made.
        controller: the cluster.
        app_dir: the folder to import from, after those of a `runtime_env`.
        base: the folder that relative paths in the config are meant from.
        timeout_s: how long importing may take.
        salt: with another one all code counts as changed.
        answers_grpc: whether the cluster does.
    """
    names = [application.name for application in config.applications]
    to_import = [
        wanted(application, app_dir, base, salt, answers_grpc=answers_grpc)
        for application in config.applications
    ]
    found = dict(zip(names, import_all(to_import, timeout_s=timeout_s), strict=True))
    outcome = Deployed()
    specs = []
    for application in config.applications:
        result = found[application.name]
        if isinstance(result, ApplicationImportError):
            outcome.failures[application.name] = result
        else:
            result.spec.config_json = application_json(application)
            specs.append(result.spec)
    if outcome.failures:
        return outcome
    before = controller.generations()
    with refusals_told():
        outcome.generations = controller.deploy(*specs, alone=True)
    outcome.unchanged = {
        name for name, generation in outcome.generations.items() if before.get(name) == generation
    }
    outcome.deleted = [name for name in before if name not in outcome.generations]
    return outcome


@contextlib.contextmanager
def refusals_told() -> Iterator[None]:
    """Gives what the cluster refuses, as more than any machine has, as a mistake of the config."""
    try:
        yield
    except ValueError as error:
        raise ConfigError([Mistake((), f"{error}. Nothing was changed")]) from None


def application_json(application: ServeApplicationSchema) -> str:
    """The application's section as it is kept with it."""
    section = application.model_dump(mode="json", exclude_unset=True)
    for deployment in section.get("deployments", []):
        options = {key: deployment.pop(key) for key in list(deployment) if key != "name"}
        deployment |= options  # the name comes first
    return json.dumps(section)
