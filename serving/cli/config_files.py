"""Reading config files, and telling what became of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import api, progress
from serving.cli.exit_codes import WrongArgumentError
from serving.configfile.deploying import Deployed
from serving.configfile.importing import ApplicationImportError
from serving.configfile.mistakes import Mistake, lines
from serving.configfile.schema import ServeDeploySchema
from serving.configfile.source import Document
from serving.configfile.validation import checked, ignored, read
from serving.exceptions import ServingError

STDIN = Path("-")


@dataclass(frozen=True)
class ReadConfig:
    """A config without mistakes."""

    config: ServeDeploySchema
    document: Document
    file: Path
    """Or STDIN."""

    @property
    def base(self) -> Path:
        """The folder that relative paths in it are meant from; of STDIN, this process's."""
        return self.file.parent.absolute()

    def told(self, mistakes: list[Mistake], kind: str = "") -> list[str]:
        """These in words, each with its place in the file, or in what stdin holds."""
        if self.file == STDIN:
            return lines(mistakes, kind=kind)
        located = sorted(map(self.document.located, mistakes), key=lambda each: each.line)
        return lines(located, str(self.file), kind)


def is_config(target: str) -> bool:
    """Whether it names a config file, not an application."""
    return target.endswith((".yaml", ".yml", ".json"))


def read_config(file: Path) -> ReadConfig:
    """Reads a config file, or stdin, and says what of it has no effect. Raises ConfigError where it
    has mistakes, WrongArgumentError where it cannot be read."""
    try:
        if file == STDIN:
            document = Document(sys.stdin.buffer.read(), "")
            config = checked(document.values)
        else:
            config, document = read(file)
    except OSError as error:
        raise WrongArgumentError(f"{file} cannot be read: {error.strerror}") from None
    found = ReadConfig(config, document, file)
    for line in found.told(ignored(config), "warning: "):
        progress.say(line)
    return found


def report(read: ReadConfig, outcome: Deployed) -> list[ServingError]:
    """Says what became of each application; returns the failures, with their places in the file."""
    if outcome.failures and not outcome.generations:
        progress.say("Nothing was changed: not all applications of the config can be deployed")
    status = api.status()
    names = [application.name for application in read.config.applications]
    for name in names:
        if name in outcome.generations and name not in outcome.failures:
            known = status.applications.get(name)
            prefix = known.route_prefix if known is not None else None
            is_ready = known is not None and known.status == "RUNNING"
            word = "is ready" if is_ready else "is being deployed"
            note = ", unchanged" if name in outcome.unchanged else ""
            progress.say(f"Application {name!r} {word}{status.where(prefix)}{note}")
    for name in outcome.deleted:
        if name not in outcome.failures:
            word = "is being deleted" if name in status.applications else "is deleted"
            progress.say(f"Application {name!r}, which is not in the config, {word}")
    return [_placed(read, name, names, error) for name, error in outcome.failures.items()]


def _placed(read: ReadConfig, name: str, names: list[str], error: ServingError) -> ServingError:
    if not isinstance(error, ApplicationImportError):
        return error
    mistake = Mistake(("applications", names.index(name), *error.path), str(error))
    return ApplicationImportError("\n".join(read.told([mistake])), error.path)


def differences(read: ReadConfig, options_json: str) -> list[str]:
    """What of the config a running cluster was not started with, in words."""
    running: dict[str, dict[str, Any]] = json.loads(options_json or "{}")
    return read.told(list(_differences(read.config, running)), "warning: ")


def _differences(
    config: ServeDeploySchema, running: dict[str, dict[str, Any]]
) -> Iterator[Mistake]:
    http, logging, grpc = config.cluster_options()
    for section, options, given in (
        ("http_options", http, config.given_http),
        ("grpc_options", grpc, config.grpc_options.model_fields_set),
        ("logging_config", logging, config.logging_config.model_fields_set),
    ):
        known = running.get(section, {})
        for key in given:
            value = getattr(options, key, None)
            if key not in known or known[key] == value or (key, value) == ("port", 0):
                continue
            path = ("proxy_location",) if key == "location" else (section, key)
            message = f"is {known[key]!r} in the running cluster, which keeps it until it ends"
            yield Mistake(path, message)
