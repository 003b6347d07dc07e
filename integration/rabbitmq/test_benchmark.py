"""The benchmark's subjects do what they are measured at."""

from __future__ import annotations

import pytest

from benchmarks.rabbitmq.__main__ import MEASURES, SUBJECTS
from benchmarks.rounds import sample
from integration.servers import RabbitServer


@pytest.mark.parametrize("what", [what for what, _ in MEASURES.values()])
@pytest.mark.parametrize("module", SUBJECTS.values())
def test_a_subject_runs(
    rabbit: RabbitServer, redis_url: str, monkeypatch: pytest.MonkeyPatch, what: str, module: str
) -> None:
    monkeypatch.setenv("BANANAS_BROKER_URL", rabbit.url)
    monkeypatch.setenv("BANANAS_RESULT_BACKEND_URL", redis_url)
    before = rabbit.queues()
    found = sample(module, what, 300)
    assert found.jobs == 300
    assert found.cpu > 0
    assert found.rate > 0
    assert rabbit.queues() == before  # its queues are gone, with what was in them
