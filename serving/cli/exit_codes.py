"""What the `serving` command tells the shell."""

from __future__ import annotations

from enum import IntEnum

from serving.configfile.importing import ApplicationImportError
from serving.configfile.mistakes import ConfigError
from serving.exceptions import DeploymentFailedError, ServingError, StillDeployingError


class ExitCode(IntEnum):
    """One for each kind of end that a script may want to tell apart."""

    OK = 0
    """Done. Also of `run`, of `--follow` and of `--watch` once they are interrupted."""
    FAILED = 1
    """What was asked cannot be done; the message says why. There is no cluster, say."""
    USAGE = 2
    """Wrong arguments, or a config file with mistakes: nothing was changed."""
    DEPLOY_FAILED = 3
    """An application could not start; the version before it, if there is one, serves on."""
    TIMEOUT = 4
    """It was not done in the time that was given. It goes on."""
    INTERRUPTED = 130
    """Ended by a second Ctrl-C."""


class WrongArgumentError(ServingError):
    """What the command line says cannot be; the message names it and the fix."""


def told(error: ServingError) -> str:
    """An error in words. The mistakes of a config are lines that begin with their places in it."""
    has_places = isinstance(error, ConfigError) and all(
        mistake.path or mistake.line for mistake in error.mistakes
    )
    return str(error) if has_places else f"serving: {error}"


def code_of(error: Exception) -> ExitCode:
    """The exit code for an error that ends a command."""
    if isinstance(error, WrongArgumentError | ConfigError):
        return ExitCode.USAGE
    if isinstance(error, StillDeployingError):
        return ExitCode.TIMEOUT
    is_of_deploy = isinstance(error, DeploymentFailedError | ApplicationImportError)
    return ExitCode.DEPLOY_FAILED if is_of_deploy else ExitCode.FAILED
