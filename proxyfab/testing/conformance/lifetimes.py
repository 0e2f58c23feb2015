"""Time to live: an expired object is missing, for everybody, at once; a renewed one is not."""

from __future__ import annotations

import time
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError
from proxyfab.keys import Key
from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.content import content
from proxyfab.testing.processes import until

SHORT = 0.03
LONG = 1000.0


class LifetimeTests(Suite):
    """`ttl`, `renew`, and `reap` of what expired."""

    def expired(self, connector: Any, key: Key | None = None) -> Key:
        """The key of an object that has just expired."""
        key = connector.put(Frames([b"short"]), key=key, ttl=SHORT)
        assert until(lambda: not connector.exists(key))
        return key

    def test_a_time_to_live_is_told(self, one: Any) -> None:
        key = one.put(Frames([b"x"]), ttl=LONG)

        assert one.stat(key).expires == pytest.approx(time.time() + LONG, abs=20)
        assert content(one.get(key)) == b"x"

    def test_expired_is_missing(self, one: Any) -> None:
        key = self.expired(one)

        assert (one.get(key), one.stat(key), one.exists(key), one.evict(key)) == (None, None, False, False)
        assert one.get_many([key]) == [None]
        assert one.get_range(key, 0, 1) is None

    def test_expired_is_not_listed_and_not_counted(self, connect: Open) -> None:
        one = connect("one")
        kept = one.put(Frames([b"kept"]), ttl=LONG)
        self.expired(one)

        if self.scans:
            assert [stat.key.id for stat in one.scan()] == [kept.id]
        assert one.clear() == 1

    def test_an_expired_key_can_be_put_again(self, one: Any) -> None:
        self.expired(one, Key("k"))
        one.put(Frames([b"new"]), key=Key("k"))

        assert content(one.get(Key("k"))) == b"new"
        assert one.stat(Key("k")).expires is None

    def test_replacing_forgets_the_old_time_to_live(self, one: Any) -> None:
        one.put(Frames([b"old"]), key=Key("k"), ttl=LONG)
        one.put(Frames([b"new"]), key=Key("k"), replace=True)

        assert one.stat(Key("k")).expires is None

    def test_a_held_object_outlives_its_expiry(self, one: Any) -> None:
        data = b"held" * 10_000
        key = one.put(Frames([data]), ttl=5 * SHORT)
        views = one.get(key)
        assert until(lambda: not one.exists(key))
        if self.reaps:
            one.reap()
        one.put(Frames([b"else" * 10_000]))

        assert views is None or content(views) == data

    def test_renew_moves_the_expiry(self, one: Any) -> None:
        self.claim("leases")
        key = one.put(Frames([b"x"]), ttl=LONG)

        assert one.renew(key, 3 * LONG) is True
        assert one.stat(key).expires == pytest.approx(time.time() + 3 * LONG, abs=20)
        assert one.renew(key, None) is True
        assert one.stat(key).expires is None
        assert one.renew(key, SHORT) is True
        assert until(lambda: one.get(key) is None)

    def test_renew_of_an_object_without_expiry(self, one: Any) -> None:
        self.claim("leases")
        key = one.put(Frames([b"x"]))

        assert one.renew(key, LONG) is True
        assert one.stat(key).expires is not None
        assert content(one.get(key)) == b"x"

    def test_what_is_missing_cannot_be_renewed(self, one: Any) -> None:
        self.claim("leases")

        assert one.renew(Key("never"), LONG) is False
        assert one.renew(self.expired(one), LONG) is False
        assert one.renew(self.expired(one), None) is False

    def test_many_are_renewed_together(self, one: Any) -> None:
        self.claim("leases")
        keys = one.put_many([Frames([b"x"]), Frames([b"y"]), Frames([b"z"])], ttl=LONG)
        gone = one.put(Frames([b"gone"]), ttl=LONG)
        one.evict(gone)

        assert one.renew_many([keys[0], gone, keys[1], Key("never")], 3 * LONG) == [True, False, True, False]
        for key, seconds in zip(keys, (3 * LONG, 3 * LONG, LONG), strict=True):
            assert one.stat(key).expires == pytest.approx(time.time() + seconds, abs=20)
        assert one.renew_many(keys, None) == [True] * 3
        assert one.stat(keys[2]).expires is None
        assert one.renew_many([], LONG) == []

    def test_a_renewal_that_makes_no_sense_is_refused(self, one: Any) -> None:
        self.claim("leases")
        key = one.put(Frames([b"x"]))
        with pytest.raises(ConfigurationError):
            one.renew(key, -1)
        with pytest.raises(ConfigurationError):
            one.renew_many([key], -1)

        assert one.exists(key)

    def test_reap_takes_back_what_expired(self, connect: Open) -> None:
        self.claim("reaps")
        one = connect("one")
        kept = one.put(Frames([b"kept"]), ttl=LONG)
        self.expired(one)
        would = one.reap(dry_run=True)
        did = one.reap()

        assert would == did
        assert len(did) == (0 if self.expires_unseen else 1)
        assert all(taken.nbytes >= len(b"short") and taken.what and taken.reason for taken in did)
        assert one.reap() == []
        assert content(one.get(kept)) == b"kept"
