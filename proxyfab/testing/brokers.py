"""BrokerTests: the conformance suite that every broker passes.

    class TestMine(BrokerTests):
        @pytest.fixture
        def broker(self, my_server):
            with MyBroker.from_url(my_server.url) as broker:
                yield broker

What a broker can do, its capabilities say; statements beside them are in `proxyfab.testing.brokering.base.BrokerSuite`.
"""

from __future__ import annotations

from proxyfab.testing.brokering.crossing import CrossingTests
from proxyfab.testing.brokering.fetching import FetchTests
from proxyfab.testing.brokering.groups import GroupTests
from proxyfab.testing.brokering.publishing import PublishTests
from proxyfab.testing.brokering.topics import TopicTests
from proxyfab.testing.brokering.values import ValueTests
from proxyfab.testing.brokering.walk import WalkTests


class BrokerTests(
    TopicTests,
    PublishTests,
    FetchTests,
    GroupTests,
    ValueTests,
    CrossingTests,
    WalkTests,
):
    """Subclass it, say how to open your broker, and let pytest collect the subclass."""
