"""`serving config`: what is deployed, as a config file."""

from __future__ import annotations

import typer

from serving import api, cluster
from serving.configfile.writing import deployed_text
from serving.exceptions import ClusterError


def config() -> None:
    """Print what is deployed as a config file."""
    if cluster.find() is None:
        raise ClusterError(cluster.NO_CLUSTER)
    typer.echo(deployed_text(api.cluster_status()), nl=False)
