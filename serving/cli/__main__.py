"""`python -m serving.cli`: the `serving` command."""

from serving.cli import main

main()
