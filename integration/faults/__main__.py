"""``python -m integration.faults [NAME…] [--level ci|full] [--seed N] [--json FILE]``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
import traceback
from pathlib import Path

from integration.faults import limits, scenarios, unique, workflows
from integration.faults.stage import LEVELS, Scenario, Stage

SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for module in (scenarios, workflows, unique, limits)
    for scenario in module.SCENARIOS
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="integration.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCENARIOS)}; default all")
    parser.add_argument("--level", choices=LEVELS, default=os.environ.get("FAULTS_LEVEL", "ci"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}")
    results = [run(name, options.level, options.seed) for name in options.names or list(SCENARIOS)]
    passed = sum(result["passed"] is True for result in results)
    if options.json:
        about = {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "cores": os.cpu_count(),
            "level": options.level,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"about": about, "scenarios": results}, indent=2, sort_keys=True)
        options.json.write_text(text + "\n")
    print(f"{passed} passed, {len(results) - passed} failed")
    return 0 if passed == len(results) else 1


def run(name: str, level: str, seed: int) -> dict[str, object]:
    """Run one scenario in a folder of its own."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"bananas-{name}-") as folder:
        stage = Stage(Path(folder), LEVELS[level], seed)
        error = None
        try:
            asyncio.run(SCENARIOS[name](stage))
        except Exception:
            error = traceback.format_exc()
        finally:
            stage.close()
    took = time.monotonic() - begun
    print(f"{'ok  ' if error is None else 'FAIL'} {name} {took:.1f} s {stage.figures}", flush=True)
    if error is not None:
        print(error, file=sys.stderr, flush=True)
    return {
        "name": name,
        "promise": " ".join((SCENARIOS[name].__doc__ or "").split()),
        "passed": error is None,
        "seconds": round(took, 1),
        "figures": stage.figures,
    }


if __name__ == "__main__":
    raise SystemExit(main())
