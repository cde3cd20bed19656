"""What is told about applications: one word, and why."""

from __future__ import annotations

from collections.abc import Iterator

from serving.controller import plan
from serving.controller.model import History, ReplicaState, Target
from serving.controller.state import ApplicationState, DeploymentState, waiting
from serving.v1 import controller_pb2 as pb


def application_status(state: ApplicationState) -> pb.ApplicationStatus:
    """The status of an application."""
    deployments = [
        deployment_status(spec.name, state.deployments[spec.name], state)
        for spec in state.spec.deployments
        if spec.name in state.deployments  # while it is deleted, they go one after another
    ]
    word, message = _application_word(state, deployments)
    return pb.ApplicationStatus(
        name=state.name,
        route_prefix=state.spec.route_prefix,
        status=word,
        message=message,
        deployments=deployments,
        last_deployed_time_s=state.version.deployed_at,
        generation=state.generation,
        ingress=state.spec.ingress,
        instead_of=state.version.instead_of,
        config_json=state.spec.config_json,
    )


def _application_word(
    state: ApplicationState, deployments: list[pb.DeploymentStatus]
) -> tuple[str, str]:
    messages = "\n".join(_messages(state, deployments))
    # First match wins.
    if state.deleting:
        return "DELETING", state.waits_for
    if state.broken:
        return "DEPLOY_FAILED", f"its record does not load: {state.broken}; deploy it again"
    if state.has_failed or state.lost_its_route:
        return ("UPDATE_FAILED" if state.serving is not None else "DEPLOY_FAILED"), messages
    if any(deployment.status == "UNHEALTHY" for deployment in deployments):
        return "UNHEALTHY", messages
    if state.confirmed_generation != state.generation:
        return "DEPLOYING", messages
    if any(each.target and not each.ready and not each.is_waking for each in state.wanted):
        return "UNHEALTHY", messages
    return "RUNNING", messages


def _messages(state: ApplicationState, deployments: list[pb.DeploymentStatus]) -> Iterator[str]:
    if state.problem:
        yield state.problem
    if (other := state.waits_for_route_of) is not None and state.is_complete:
        until = "on: its update failed" if other.has_failed else "until it is updated"
        yield f"waits for its route prefix, which application {other.name!r} serves {until}"
    cause_first = sorted(deployments, key=lambda each: not state.deployments[each.name].has_failed)
    for deployment in cause_first:
        if deployment.message:
            yield f"deployment {deployment.name!r} {deployment.message}"
    if state.version.note:
        yield state.version.note


def deployment_status(
    name: str, state: DeploymentState, application: ApplicationState
) -> pb.DeploymentStatus:
    """The status of a deployment."""
    word, message = _deployment_word(state, application)
    journal = state.journal
    return pb.DeploymentStatus(
        name=name,
        status=word,
        status_trigger=_trigger(word, state),
        message=message,
        options=state.spec.options,
        decisions=journal.decisions,
        last_failures=journal.failures,
        target_num_replicas=state.target.num_replicas if state.target else 0,
        replicas=[
            pb.ReplicaStatus(
                replica_id=replica.seen.replica_id,
                state=replica.seen.state.value,
                pid=replica.pid,
                version=replica.seen.version,
                started_at_s=replica.record.started_at,
            )
            for replica in state.replicas.values()
        ],
        policy_error=state.scaled.policy_error if state.scaled else "",
    )


def _deployment_word(state: DeploymentState, application: ApplicationState) -> tuple[str, str]:
    target = state.target
    if target is None:
        return "UPDATING", "is being deleted"
    history = state.histories.get(target.version, History())
    failed = "UPDATE_FAILED" if application.serving is not None else "DEPLOY_FAILED"
    progress = _progress(state, target)
    # First match wins.
    if state.config_error:
        return failed, (
            "did not take its new user_config, and keeps the one before: "
            f"{headline_first(state.config_error)}"
        )
    if state.has_failed:
        times = f"{plan.MAX_FAILED_STARTS} times in a row"
        return failed, f"could not start, {times}: {headline_first(history.error)}"
    if state.is_complete:
        return "HEALTHY", _policy_complaint(state)
    if target.goes_back:
        names = (repr(name) for name, each in application.deployments.items() if each.has_failed)
        return failed, f"serves as before, for {', '.join(names)} could not be updated"
    if target.waits_for:
        return "UPDATING", f"waits: {waiting(target)}"
    if history.failures:
        # Given time, one failure is repaired; it is the row of them that is news.
        word = "UNHEALTHY" if history.failures >= plan.MAX_FAILED_STARTS else "UPDATING"
        return word, f"{progress}; the last failure: {headline_first(history.error)}"
    if not state.is_configured:
        return "UPDATING", "is being reconfigured"
    if target.wakes and application.serving_generation == application.generation:
        return "UPSCALING", progress
    return "UPDATING", progress


def _progress(state: DeploymentState, target: Target) -> str:
    """How many replicas are ready, and what the others wait for."""
    ready = sum(
        replica.state is ReplicaState.RUNNING and replica.version == target.version
        for replica in state.seen()
    )
    progress = f"has {ready} of {target.num_replicas} replicas ready"
    if state.shortage:
        progress += f"; waits for {state.shortage}"
    for replica in state.replicas.values():
        if replica.seen.state is ReplicaState.STARTING and replica.slowness:
            return f"{progress}; {replica.seen.replica_id} {replica.slowness}"
    return progress


def _trigger(word: str, state: DeploymentState) -> str:
    """What led to this status, in Ray Serve's words."""
    if state.target is None:
        return "DELETING"
    history = state.histories.get(state.target.version, History())
    # First match wins.
    if word == "UPSCALING":
        return "AUTOSCALING"
    if word == "HEALTHY":
        return "CONFIG_UPDATE_COMPLETED"
    if history.failures:
        return "HEALTH_CHECK_FAILED" if history.proven else "REPLICA_STARTUP_FAILED"
    if state.config_error:
        return "REPLICA_STARTUP_FAILED"
    return "CONFIG_UPDATE_STARTED"


def _policy_complaint(state: DeploymentState) -> str:
    if state.scaled is None or not state.scaled.policy_error:
        return ""
    error = headline_first(state.scaled.policy_error)
    return f"keeps its number of replicas, for its autoscaling policy failed: {error}"


def unavailable(state: DeploymentState, now: float) -> str:
    """Why callers would wait for a replica in vain; empty where one is to be expected."""
    if not plan.is_hopeless(state.target, state.histories, state.seen(), now):
        return ""
    if state.target is None:
        return "it is being deleted"
    version = plan.serving_version(state.target, state.histories)
    history = state.histories.get(version, History())
    if not history.failures:
        return "it is to have no replicas"
    return f"{history.failures} failures in a row, the last: {headline(history.error)}"


def headline(error: str) -> str:
    """What went wrong, of a traceback: the exception's type and the first line of its message."""
    lines = error.strip().splitlines() or [""]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    if not frames:
        return lines[-1]
    return next((line for line in lines[frames[-1] :] if not line.startswith(" ")), lines[-1])


def headline_first(error: str) -> str:
    """A traceback with what went wrong ahead of where."""
    error = error.strip()
    return f"{headline(error)}\n{error}" if "\n" in error else error
