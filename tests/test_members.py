"""Weak collections: looked through while they grow, and one value for each key."""

from __future__ import annotations

import threading
import weakref

from proxyfab.members import Known, Members


class Member:
    """Has weak references."""


def test_members_are_looked_through_while_others_come() -> None:
    kept = [Member() for _ in range(3)]
    members = Members(kept)

    for member in members:
        kept.append(Member())
        members.add(kept[-1])
        members.discard(member)
    assert set(members) == set(kept[3:])
    del kept[:4]
    del member
    assert set(members) == set(kept)


def test_members_are_some_while_one_lives() -> None:
    member, other = Member(), Member()
    members, told = Members([member, other]), list[bool]()
    refs = [weakref.ref(each, lambda _: told.append(bool(members))) for each in (member, other)]
    del member  # what was made last is called first: before the set knows
    del other
    assert [ref() for ref in refs] == [None, None]
    assert told == [True, False]


def test_two_threads_that_want_a_value_at_once_get_the_same() -> None:
    known: Known[object, Member] = Known()
    found: list[Member] = []
    other = threading.Thread(target=lambda: found.append(known.setdefault("key", Member())))

    class Key(str):
        """Lets the other thread come between the look and the setting."""

        __slots__ = ()
        looks = 0

        def __hash__(self) -> int:
            Key.looks += 1
            if Key.looks == 2:
                other.start()
                other.join(0.05)  # where it need not wait, it is over by now
            return hash("key")

        __eq__ = str.__eq__

    found.append(known.setdefault(Key("key"), Member()))
    other.join()
    assert len(found) == 2
    assert found[0] is found[1]
    assert list(known.now().values()) == found[:1]
