"""The `serving` command."""
