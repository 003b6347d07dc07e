"""Drivers that can remove their whole namespace remove all of it, and nothing else."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from bananas import Bananas
from bananas_core.embed import run_until_idle
from bananas_core.job import Write
from bananas_core.pair import Pair, load_pair
from bananas_core.transport import Outgoing


@pytest.fixture(params=["memory", "memory split", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = uuid.uuid4().hex  # a memory store may outlive the test that used it
    return {
        "memory": f"memory://{name}",
        "memory split": f"memory://{name}?form=split",
        "sqlite": f"sqlite:///{tmp_path}/erase.db",
    }[request.param]


async def fill(app: Bananas) -> None:
    """A final and a pending job, a document, and a message that no record knows."""
    done = app.tasks["done"]
    await done.submit()
    await run_until_idle(app)
    await app.submit_job("done", routing_key="elsewhere")
    await app.backend.cas([Write(key="a/b", value=b"c", version=0)])
    await app.transport.send([Outgoing(body=b"foreign", queue="elsewhere")])


async def contents(pair: Pair) -> tuple[int, int, int, bool]:
    """Records, documents, messages, and whether there are events."""
    records = sum(count.count for count in await pair.backend.count(["state"]))
    documents = len(await pair.backend.docs("a/"))
    (stats,) = await pair.transport.stats(["elsewhere"])
    events = await pair.backend.events("")
    return records, documents, stats.ready, bool(events.events)


def make_app(url: str, namespace: str) -> Bananas:
    app = Bananas(url, namespace=namespace)

    @app.task(name="done")
    async def done() -> int:
        return 1

    return app


@pytest.mark.parametrize("side", ["transport", "backend", "both"])
async def test_erase_removes_one_namespace(url: str, side: str) -> None:
    async with make_app(url, "gone") as gone, make_app(url, "kept") as kept:
        for app in (gone, kept):
            await fill(app)
        assert gone.pair is not None
        assert kept.pair is not None
        before = await contents(kept.pair)
        assert await contents(gone.pair) == before
        assert before[:2] == (2, 1)
        if side == "both" or not gone.pair.fused:
            await gone.transport.erase()  # type: ignore[attr-defined]
            await gone.backend.erase()  # type: ignore[attr-defined]
        else:  # one place: either removes all
            await getattr(gone, side).erase()
        assert await contents(kept.pair) == before
        await gone.close()
        again = load_pair(url, None, "gone")
        await again.open()
        assert await contents(again) == (0, 0, 0, False)
        await again.close()
