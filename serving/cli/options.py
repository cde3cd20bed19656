"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.config import HTTPOptions, validated
from serving.exceptions import ClusterError

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
Port = Annotated[
    int | None, typer.Option(help="HTTP port; 0 picks a free one.", show_default="8000")
]


def http_options(host: str | None, port: int | None) -> HTTPOptions:
    """The HTTP options, with defaults for what was not given."""
    given = {"host": host, "port": port}
    try:
        return validated(
            HTTPOptions, {key: value for key, value in given.items() if value is not None}, "HTTP"
        )
    except ValueError as error:
        raise ClusterError(str(error)) from None
