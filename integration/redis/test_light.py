"""Worker processes on Redis import what they use."""

from __future__ import annotations

from pathlib import Path

from tests.worker.light import ask, heavy


def test_a_worker_process_imports_nothing_heavy(
    tmp_path: Path, redis_url: str, namespace: str
) -> None:
    modules = ask(tmp_path, redis_url, "modules", namespace=namespace)
    assert "bananas_brokers.redis.transport" in modules
    assert heavy(modules, "sqlite3", "bananas_brokers.sqlite") == set()
