"""Topic: sizes that fit and sizes that don't; errors are of the right family."""

from __future__ import annotations

import pytest

from bananas_core.errors import ResultBackendError, TransportError, UnsupportedCapability
from bananas_core.job import Write
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise
from bananas_core.testing.conformance.support import (
    Suite,
    a_job,
    claim_one,
    finish_one,
    message,
    put_one,
    receive,
    record,
)
from bananas_core.transport import Outgoing


class TransportLimits(Suite):
    @promise("T9")
    async def test_the_largest_message_fits(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        body = b"x" * harness.capabilities.transport.max_message
        assert await transport.send([Outgoing(body=body, queue=queue)]) == [None]
        (delivery,) = await receive(harness, transport, [queue], 1)
        assert delivery.body == body

    @promise("T3")
    async def test_a_closed_transport_says_so(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await transport.close()
        with pytest.raises(TransportError):
            await transport.send([message("a", queue)])
        with pytest.raises(TransportError):
            await transport.stats([queue])

    @promise("T1", "T3")
    async def test_an_unopened_transport_says_so(self, harness: Harness) -> None:
        transport, queue = harness.unopened().transport, harness.queue()
        with pytest.raises(TransportError):
            await transport.send([message("a", queue)])
        await transport.close()  # harmless


class LedgerLimits(Suite):
    @promise("L3")
    async def test_an_unopened_ledger_says_so(self, harness: Harness) -> None:
        backend = harness.unopened().backend
        with pytest.raises(ResultBackendError):
            await backend.put([a_job()])
        await backend.close()  # harmless

    @promise("L3")
    async def test_a_closed_ledger_says_so(self, harness: Harness) -> None:
        backend = await harness.backend()
        await backend.close()
        await backend.close()
        with pytest.raises(ResultBackendError):
            await backend.put([a_job()])
        with pytest.raises(ResultBackendError):
            await backend.now()

    @promise("L3")
    async def test_an_unknown_group_is_refused(self, harness: Harness) -> None:
        backend = await harness.backend()
        with pytest.raises(ResultBackendError):
            await backend.count(["colour"])

    @promise("L52")
    async def test_a_foreign_transaction_is_refused(self, harness: Harness) -> None:
        backend, put = await harness.backend(), a_job()
        with pytest.raises(UnsupportedCapability):
            await backend.put([put], tx=object())
        assert await backend.get([put.id]) == [None]

    @promise("L38")
    async def test_a_document_of_256_KiB_fits_and_no_larger_one(self, harness: Harness) -> None:
        backend = await harness.backend()
        (answer,) = await backend.cas([Write(key="big", value=b"x" * (256 << 10))])
        assert answer.done
        with pytest.raises(ResultBackendError):
            await backend.cas(
                [Write(key="small", value=b"y"), Write(key="huge", value=b"x" * ((256 << 10) + 1))]
            )
        assert [doc.key for doc in await backend.docs("")] == ["big"]

    @promise("L25")
    async def test_a_large_result_comes_back_unchanged(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await claim_one(backend, harness.session(), await put_one(backend, a_job()))
        value = b'"' + b"v" * 200_000 + b'"'
        await finish_one(backend, claim, result=value)
        assert (await record(backend, claim.id)).result == value
