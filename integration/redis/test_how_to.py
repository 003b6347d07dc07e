"""docs/how-to/redis.md, followed word for word: its commands, and its plain client."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "redis.md").read_text("utf-8")
SHOP = """
from bananas import Bananas

app = Bananas()


@app.task(name="shop.process_order")
async def process_order(order_id: str) -> str:
    return f"order {order_id} is on its way"


@app.task(name="t")
async def t() -> int:
    return 1


@app.task(name="shop.fail")
async def fail() -> None:
    raise ValueError("nothing comes of it")
"""
SECONDS = 20.0


def block(heading: str, language: str) -> list[str]:
    """The lines of the first such block after a heading."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE[PAGE.index(heading) :], re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@pytest.fixture
def log(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Path]:
    """What the page's worker prints, which runs once its other commands have succeeded."""
    (tmp_path / "shop.py").write_text(SHOP)
    export, *others, worker = [line.removeprefix("$ ") for line in block("# Use", "console")]
    assert export.startswith("export BANANAS_BROKER_URL=redis://")
    env = {
        **os.environ,
        "BANANAS_BROKER_URL": redis_url,
        "BANANAS_NAMESPACE": namespace,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    log = tmp_path / "log"
    for command in others:
        subprocess.run(shlex.split(command), env=env, cwd=tmp_path, check=True, timeout=SECONDS)
    with log.open("wb") as out:
        process = subprocess.Popen(
            shlex.split(worker), env=env, cwd=tmp_path, stdout=out, stderr=out
        )
    try:
        until(lambda: process.poll() is not None or "ready" in log.read_text(), log)
        assert process.poll() is None, log.read_text()
        yield log
        process.terminate()
        assert process.wait(SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_plain_client_does_what_the_page_says(redis_url: str, namespace: str, log: Path) -> None:
    push, get = [
        [word.replace("{bananas}", f"{{{namespace}}}") for word in shlex.split(line)]
        for line in block("## Plain clients", "text")
    ]
    golden = json.loads((ROOT / "tests" / "golden" / "accept.json").read_text("utf-8"))
    texts = {vector["name"]: vector.get("text") for vector in golden["vectors"]}
    failing = json.loads(push[2]) | {"id": "fails", "name": "shop.fail", "payload": {}}
    failing["max_attempts"] = 1
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as channel:
        channel.subscribe(f"{{{namespace}}}:done")
        assert channel.get_message(timeout=SECONDS) is not None  # that it listens
        begun = time.monotonic()
        client.execute_command(*push)
        client.execute_command(*push[:2], texts["smallest"], json.dumps(failing))
        until(lambda: not client.llen(push[1]), log)
        taken = time.monotonic() - begun
        ended: set[str] = set()

        def all_ended() -> bool:
            message = channel.get_message(timeout=0.1)
            if message is not None:
                ended.update(message["data"].decode().split(" "))
            return ended >= {"order-17", "a1", "fails"}

        until(all_ended, log)
        assert json.loads(client.execute_command(*get)) == {"value": "order 17 is on its way"}
        assert json.loads(client.execute_command(*get[:2], "a1")) == {"value": 1}
        assert client.execute_command(*get[:2], "fails") is None
    assert taken < 5.0  # "within a second", and a busy machine
