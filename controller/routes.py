"""Who may take which route prefix, where applications that are deployed together exchange theirs.

A prefix is wanted by one application at the most, and served by one at the most. Who wants what
another serves waits until that one moves on; where all of a circle are ready they move at once.
"""

from __future__ import annotations

from collections.abc import Collection

from serving.controller.state import ApplicationState


def holder(
    state: ApplicationState, everyone: Collection[ApplicationState]
) -> ApplicationState | None:
    """Another application that serves what this one is to have."""
    if state.deleting or state.broken or not state.spec.route_prefix:
        return None
    for other in everyone:
        served = other.serving if other is not state and not other.deleting else None
        if served is not None and served.route_prefix == state.spec.route_prefix:
            return other
    return None


def moving_with(
    state: ApplicationState, everyone: Collection[ApplicationState]
) -> list[ApplicationState]:
    """This application and those that have to make room for it, where all of them are complete:
    what is wanted of them is to serve from now on. Nobody where one is not."""
    moving: list[ApplicationState] = []
    following: ApplicationState | None = state
    while following is not None and following not in moving:
        if not following.is_complete or following.serving_generation == following.generation:
            return []
        moving.append(following)
        following = holder(following, everyone)
    return moving
