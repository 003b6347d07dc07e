"""An app whose tasks tell what their process has imported and which settings it works with."""

from __future__ import annotations

import os
import sys

from bananas import Bananas

if "SET_BY_APP" in os.environ:  # as programs do that read a file of variables
    os.environ["BANANAS_MAX_PAYLOAD"] = os.environ["SET_BY_APP"]

app = Bananas(concurrency=3)


@app.task
async def modules() -> list[str]:
    return sorted(sys.modules)


@app.task
def modules_of_def() -> list[str]:
    return sorted(sys.modules)


@app.task
async def settings() -> dict[str, list[object]]:
    names = ("concurrency", "grace", "max_payload", "retention_failed", "pool")
    return {name: [getattr(app.settings, name), app.sources[name]] for name in names}
