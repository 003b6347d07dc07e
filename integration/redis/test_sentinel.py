"""Fail-over by Sentinel: a new master is found, what its replica confirmed is there, and what it
never got is known to be lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from bananas import Bananas
from bananas_core.errors import JobNotFound, ResultBackendUnavailable
from bananas_core.job import ClaimBeat, Hint, JobPut, Session, VerdictKind
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import a_job
from integration.redis.invariants import check
from integration.redis.support import again, client_of, pair_on, received, succeed
from integration.servers import RedisServer, SentinelServer
from integration.servers.need import need

Group = tuple[RedisServer, RedisServer, SentinelServer]


@pytest.fixture
def group() -> Iterator[Group]:
    """A master, its replica, and the sentinel that watches them."""
    need(RedisServer)
    settings = {"repl-diskless-sync-delay": "0"}
    with (
        RedisServer(appendonly=False, settings=settings, process=True) as master,
        RedisServer(appendonly=False, settings=settings, replicaof=master) as replica,
        SentinelServer({"mymaster": master}, failover_timeout=5) as sentinel,
    ):
        until = time.monotonic() + 20
        while not _known(sentinel):
            assert time.monotonic() < until, "the sentinel does not see the replica"
            time.sleep(0.1)
        yield master, replica, sentinel


def _known(sentinel: SentinelServer) -> bool:
    replicas = client_of(sentinel).sentinel_slaves("mymaster")
    return any(one["master-link-status"] == "ok" for one in replicas)


async def test_a_fail_over_is_followed_and_loses_nothing_confirmed(group: Group) -> None:
    master, replica, sentinel = group
    pair = pair_on(sentinel.url + "?wait_replicas=1", "failover")
    await pair.open()
    puts = [a_job() for _ in range(50)]
    await pair.backend.put(puts)
    before = await received(pair, "s", 10)
    await pair.backend.finish([succeed(claim) for claim in before[:5]])
    await pair.backend.put([])
    master.kill()
    begun = time.monotonic()
    with pytest.raises(ResultBackendUnavailable):
        await pair.backend.now()
    await again(lambda: pair.backend.now(), 30.0)
    assert time.monotonic() - begun < 15.0
    jobs = await pair.backend.get([put.id for put in puts])
    assert None not in jobs
    rest = await again(lambda: received(pair, "t", 100), 10.0)
    assert len(rest) >= 40
    assert min(claim.fence for claim in rest) > max(claim.fence for claim in before)
    with pytest.raises(ResultBackendUnavailable, match="0 of 1"):
        await pair.backend.put([a_job()])  # no replica is left to confirm it
    check(client_of(replica), "failover")
    await pair.close()


def cut_off(master: RedisServer, replica: RedisServer) -> None:
    """The replica gets nothing more: it is stopped, so it can't connect again."""
    client = client_of(master)
    client.set("all", 1)
    assert client.wait(1, 5000) == 1
    replica.pause()
    client.client_kill_filter(_type="replica")


async def test_without_waiting_a_fail_over_forgets_what_was_confirmed_and_says_so(
    group: Group,
) -> None:
    master, replica, sentinel = group
    pair = pair_on(sentinel.url, "forgets")
    await pair.open()
    known, lost = [a_job() for _ in range(5)], [a_job() for _ in range(5)]
    await pair.backend.put(known)
    cut_off(master, replica)
    await pair.backend.put(lost)
    (claim,) = await received(pair, "s", 1)
    assert None not in await pair.backend.get([put.id for put in lost])
    master.kill()
    replica.resume()
    await again(lambda: pair.backend.now(), 30.0)
    # Jobs whose acceptance was forgotten have no record, and nobody waits for them in vain.
    assert None not in await pair.backend.get([put.id for put in known])
    assert await pair.backend.get([put.id for put in lost]) == [None] * 5
    async with Bananas(sentinel.url, namespace="forgets") as app:
        with pytest.raises(JobNotFound):
            await app.get_job(lost[0].id)
    # Their messages, if another broker has them, are not run but set aside.
    backend = pair_on(sentinel.url, "forgets").backend
    await backend.open(guard=True)
    (verdict,) = await backend.claim("other", [Hint(id=lost[0].id, gen=1)])
    assert verdict.kind is VerdictKind.UNRECORDED
    await backend.close()
    # A claim that was forgotten is lost to its worker, and given out again under another fence.
    beat = ClaimBeat(id=claim.id, fence=claim.fence)
    answer = await pair.backend.renew(Session(id="s", name="s"), [beat])
    assert answer.lost == ((claim.id, claim.fence),)
    ((refused,), _) = await pair.backend.finish([succeed(claim)])
    assert not refused.accepted
    later = {one.id: one.fence for one in await again(lambda: received(pair, "t", 10))}
    assert set(later) == {put.id for put in known}
    assert later[claim.id] > claim.fence
    check(client_of(replica), "forgets")
    await pair.close()


@pytest.mark.timeout(120)
async def test_with_waiting_a_fail_over_loses_nothing_accepted(group: Group) -> None:
    master, replica, sentinel = group
    pair = pair_on(sentinel.url + "?wait_replicas=1&socket_timeout=2", "keeps")
    await pair.open()
    accepted: set[str] = set()
    errors = 0

    async def submit() -> None:
        nonlocal errors
        puts: list[JobPut] = []
        while True:
            puts = puts or [a_job() for _ in range(5)]
            try:
                await pair.backend.put(puts)
            except ResultBackendUnavailable:
                errors += 1
                await asyncio.sleep(0.05)
                continue
            accepted.update(put.id for put in puts)
            puts = []

    submitting = asyncio.create_task(submit())
    await eventually(lambda: len(accepted) > 50, 10.0)
    await asyncio.to_thread(cut_off, master, replica)
    before = len(accepted)
    await asyncio.sleep(0.2)  # for a request that the replica had confirmed
    master.kill()
    replica.resume()
    await eventually(lambda: sentinel.primary("mymaster")[1] == replica.port, 30.0)
    await asyncio.to_thread(master.start)  # it comes back as a replica
    await eventually(lambda: len(accepted) > before + 50, 60.0)
    submitting.cancel()
    await asyncio.gather(submitting, return_exceptions=True)
    assert errors
    jobs = await again(lambda: pair.backend.get(sorted(accepted)))
    assert None not in jobs
    check(client_of(replica), "keeps")
    await pair.close()
