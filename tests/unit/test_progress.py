from __future__ import annotations

import io

import pytest

from serving import progress
from serving.v1 import controller_pb2 as pb


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def statuses() -> list[pb.ApplicationStatus]:
    """Of a deploy; the second one is no news."""
    messages = ["has 0 of 2 replicas ready", "has 0 of 2 replicas ready", ""]
    return [
        pb.ApplicationStatus(
            name="[app]", deployments=[pb.DeploymentStatus(name="D", message=message)]
        )
        for message in messages
    ]


def terminal(patch: pytest.MonkeyPatch) -> Terminal:
    """Stands for stderr. (Not a fixture: pytest has its own stderr when the test begins.)"""
    patch.setenv("TERM", "xterm")
    stderr = Terminal()
    patch.setattr("sys.stderr", stderr)
    return stderr


def test_news_are_lines_where_processes_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal(monkeypatch)

    progress.follow(iter(statuses()), alone=False)

    assert stderr.getvalue() == (
        "Deploying [app]: D has 0 of 2 replicas ready\nDeploying [app]: D is ready\n"
    )


def test_line_moves_in_a_terminal_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal(monkeypatch)

    progress.follow(iter(statuses()), alone=True)

    shown = stderr.getvalue()
    assert "Deploying [app]: D is ready" in shown
    assert "\x1b[" in shown
    assert shown.endswith(("\x1b[2K", "\x1b[?25h"))


@pytest.mark.parametrize("alone", [True, False])
def test_nothing_is_shown_outside_of_a_terminal(
    alone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.follow(iter(statuses()), alone=alone)

    assert capsys.readouterr().err == ""


def test_what_takes_long_is_told_outside_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    moments = iter([0.0, 3.9, 4.0, 5.0])
    first, second, third = statuses()
    with progress.shown(alone=True, clock=lambda: next(moments)) as show:
        show(first)
        assert capsys.readouterr().err == ""
        second.deployments[0].message = "has 0 of 2 replicas ready; one starts slowly"
        show(second)
        show(third)

    assert capsys.readouterr().err == (
        "Deploying [app]: D has 0 of 2 replicas ready; one starts slowly\n"
        "Deploying [app]: D is ready\n"
    )
