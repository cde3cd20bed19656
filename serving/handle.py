"""Handles: what code holds of a deployment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeploymentHandle:
    """Names a deployment that runs."""

    deployment_name: str
    app_name: str = "default"
