"""The conformance suite: every promise of the two contracts as tests for any driver.

A driver's author writes::

    class TestMyDriver(TransportConformance, ResultBackendConformance):
        @pytest.fixture
        async def harness(self):  # pytest_asyncio.fixture, unless asyncio_mode is auto
            harness = Harness(lambda: load_pair("mydriver://…", None, "a-new-namespace"))
            yield harness
            await harness.aclose()

or runs ``python -m bananas_core.testing.conformance mydriver://…``. Tests are skipped by declared
capabilities only, never by a driver's name.
"""

from bananas_core.testing.conformance.batch import Batching
from bananas_core.testing.conformance.claims import Claiming, Putting
from bananas_core.testing.conformance.delivery import Connecting, Counting, Delivering
from bananas_core.testing.conformance.docs import Documents
from bananas_core.testing.conformance.due import Guarding, Scheduling, Time
from bananas_core.testing.conformance.events import Feeding
from bananas_core.testing.conformance.fences import Finishing
from bananas_core.testing.conformance.flow import Flowing
from bananas_core.testing.conformance.followups import Following
from bananas_core.testing.conformance.fused import Fusing
from bananas_core.testing.conformance.harness import Capabilities, Harness, Limits, eventually
from bananas_core.testing.conformance.limits import LedgerLimits, TransportLimits
from bananas_core.testing.conformance.marks import level, promise, promises_of, requires, takes
from bananas_core.testing.conformance.nodes import Ending, Releasing, Resetting, Scopes
from bananas_core.testing.conformance.order import Ordering
from bananas_core.testing.conformance.plugin import PluginConformance
from bananas_core.testing.conformance.prune import Pruning
from bananas_core.testing.conformance.queries import Listing, Tallying
from bananas_core.testing.conformance.quotas import Limiting
from bananas_core.testing.conformance.results import Recording
from bananas_core.testing.conformance.sessions import Lapsing, Orphans, Renewing
from bananas_core.testing.conformance.signals import Cancelling, Changing, Retrying
from bananas_core.testing.conformance.stress import LedgerStress, TransportStress
from bananas_core.testing.conformance.unique import Conflicting, Holding
from bananas_core.testing.conformance.version import VERSION
from bananas_core.testing.conformance.waiting import Waiting
from bananas_core.testing.conformance.workflow_crashes import Crashing, Growing
from bananas_core.testing.conformance.workflow_reruns import Expanding, Resuming
from bananas_core.testing.conformance.workflows import Failing, Joining


class TransportConformance(
    Delivering,
    Connecting,
    Counting,
    Ordering,
    Batching,
    TransportLimits,
    Fusing,
    Flowing,
    TransportStress,
):
    """All tests of the Transport contract."""


class ResultBackendConformance(
    Putting,
    Claiming,
    Finishing,
    Scheduling,
    Guarding,
    Time,
    Renewing,
    Orphans,
    Lapsing,
    LedgerLimits,
    Recording,
    Waiting,
    Cancelling,
    Retrying,
    Changing,
    Releasing,
    Scopes,
    Ending,
    Resetting,
    Following,
    Listing,
    Tallying,
    Documents,
    Feeding,
    Pruning,
    Limiting,
    Holding,
    Conflicting,
    Joining,
    Failing,
    Expanding,
    Resuming,
    Crashing,
    Growing,
    LedgerStress,
):
    """All tests of the ResultBackend contract."""


__all__ = [
    "VERSION",
    "Capabilities",
    "Harness",
    "Limits",
    "PluginConformance",
    "ResultBackendConformance",
    "TransportConformance",
    "eventually",
    "level",
    "promise",
    "promises_of",
    "requires",
    "takes",
]
