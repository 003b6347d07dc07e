"""Tests that need a server: skipped without it, but a failure where it has to be there."""

from __future__ import annotations

import os

import pytest

from integration.servers.base import Server, ServerMissing


def need(server: type[Server]) -> None:
    """Skip the calling test if the server's program is missing; in CI that is a failure."""
    try:
        server.find()
    except ServerMissing as error:
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            raise
        pytest.skip(str(error))
