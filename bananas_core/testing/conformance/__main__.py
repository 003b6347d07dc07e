"""``python -m bananas_core.testing.conformance URL [pytest's options]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

import pytest

PLUGIN = "bananas_core.testing.pytest_conformance"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite on a broker URL; pytest's exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0].startswith("-"):
        print("usage: python -m bananas_core.testing.conformance URL [pytest's options]")
        return 2
    url, *options = given
    known = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
    load = [] if known else ["-p", PLUGIN]
    load += ["-o", "asyncio_default_fixture_loop_scope=function"]
    return int(
        pytest.main(
            [*load, "--pyargs", "bananas_core.testing.conformance", "--bananas-url", url, *options]
        )
    )


if __name__ == "__main__":
    raise SystemExit(main())
