"""own, borrow, borrow_mut, update, clone, release, reclaim, adopt, scope: what people do with owned objects.

Promises: what comes back is a transparent proxy, typed as its target; rules that do not allow something raise
BorrowError, which says who holds what until when; nothing here blocks for longer than it is told to, or than the
connector's own deadlines.
"""

from __future__ import annotations

import time
from typing import Any, Protocol, TypeVar

from proxyfab.abc import SupportsCompareAndSet, SupportsLease, check_timeout, check_ttl
from proxyfab.errors import BorrowError, CapabilityError, ConfigurationError, KeyNotFound
from proxyfab.patterns.ownership.accounts import PATIENCE
from proxyfab.patterns.ownership.borrows import Shared
from proxyfab.patterns.ownership.handles import OVER, Handle
from proxyfab.patterns.ownership.seats import Owner, Seated, adopted, clone_of, found
from proxyfab.proxy import factory_of, is_proxy, is_singleton, kind_of, unwrap
from proxyfab.ref import Ref
from proxyfab.store import Store
from proxyfab.wire.owned import ENDLESS, keep

T = TypeVar("T")
LEASE = 30.0


class Done(Protocol):
    """A future of any kind: of `concurrent.futures`, `asyncio`, Dask, Parsl, or this package's own."""

    def add_done_callback(self, fn: Any, /) -> object: ...


def own(store: Store, obj: T, *, lease: float = LEASE) -> T:
    """Store an object and own it: it is released when its owner goes, in whatever way that happens.

    The owner is a proxy. When it is released, collected, or its process ends, the object goes; when its process is
    killed, as soon as the lease and half of it as grace have passed. Sent in a message, it moves to who uses that.

    Args:
        store: Where to; its connector must be able to compare and set, and to renew.
        obj: Anything a store takes. Of a plain proxy, its target is stored anew.
        lease: Seconds that this process, and each that borrows the object, may be silent before it is given up.

    Raises:
        CapabilityError: The store's connector cannot do this.
        BorrowError: `obj` is owned or borrowed already.
        ConfigurationError: `obj` is None, True or the like, which are compared with `is`; or the lease makes no sense.
    """
    able(store, lease)
    if isinstance(_handle(obj), Handle):
        raise BorrowError("What is owned or borrowed already cannot be owned again; clone() it.")
    if is_proxy(obj):
        obj = unwrap(obj)
    if is_singleton(obj):
        raise ConfigurationError(f"{obj!r} is compared with `is` and cannot be owned; put it into a container.")
    began = time.monotonic()
    data = store.put(obj, ttl=keep(lease))
    try:
        return found(store, data, lease, kind_of(obj), began).proxy()  # type: ignore[no-any-return]  # typed as its target
    except BaseException:
        store.evict(data)
        raise


def adopt(ref: T, *, lease: float = LEASE) -> T:
    """Own what a plain reference names: what another process put with a time to live, and nobody owns yet.

    Of all who adopt an object one does; if his process is killed, who comes next takes it over.

    Args:
        ref: A plain proxy, or a Ref. Who else has it must not use it after its owner has gone.
        lease: As in `own`.

    Raises:
        KeyNotFound: It is not there any more.
        BorrowError: It is owned, or borrowed, already.
    """
    named = ref if isinstance(ref, Ref) else _handle(ref)
    if isinstance(named, Handle):
        raise BorrowError("What is owned or borrowed already cannot be adopted; clone() it.")
    if not isinstance(named, Ref):
        raise ConfigurationError(f"Only a reference to a stored object can be adopted, not a {type(ref).__name__}.")
    store = named.store
    able(store, lease)
    if named.key is None:  # it travelled inside
        return own(store, named.resolve(), lease=lease)  # type: ignore[no-any-return]  # the Ref's type is T's
    missing = KeyNotFound(f"Nothing lies under {named.key} in {store.url} to be adopted: it expired or was evicted.")
    if not store.exists(named.key):  # it is renewed by who owns it, and by nobody who is refused
        raise missing
    try:
        return adopted(store, named.key, lease, named.kind or kind_of(named.resolve())).proxy()  # type: ignore[no-any-return]
    except BorrowError:
        if store.exists(named.key):
            raise
        raise missing from None


def borrow(owned: T, *, scoped: bool = False, timeout: float = PATIENCE) -> T:
    """A shared borrow: read as long as you like, and nobody changes or releases the object meanwhile.

    It ends with `release`, when it is collected, or with its process. Sent in a message, who uses it borrows for
    himself, if the object is still there and unchanged then.

    Args:
        owned: An owner, or another shared borrow.
        scoped: Who is sent it reads under this process's claim and takes none of his own: for tasks that may be
            retried, and that this process waits for. See `scope`.
        timeout: Seconds to wait for a mutable borrow to end.

    Raises:
        BorrowError: It is mutably borrowed, or not held by this process.
    """
    check_timeout(timeout, 0)
    handle = held(owned)
    if not isinstance(handle, (Owner, Shared)):
        raise BorrowError(f"A {handle.what} cannot be borrowed from; release it, and borrow from the owner.")
    return handle.borrow(timeout, scoped).proxy()  # type: ignore[no-any-return]  # a proxy of T is typed as T


def borrow_mut(owned: T, *, timeout: float = PATIENCE) -> T:
    """The one mutable borrow: its target is a private copy to be changed, which `update` publishes.

    Meanwhile the owner cannot be read, borrowed, sent or released.

    Args:
        owned: An owner.
        timeout: Seconds to wait for other borrows to end.

    Raises:
        BorrowError: It is borrowed, or not held by this process.
    """
    check_timeout(timeout, 0)
    handle = held(owned)
    if not isinstance(handle, Owner):
        raise BorrowError(f"A {handle.what} cannot be borrowed mutably; only the owner can.")
    return handle.borrow_mut(timeout).proxy()  # type: ignore[no-any-return]  # as above


def update(changed: T) -> None:
    """Publish what a mutable borrow, or an owner whom nobody borrows from, was changed to. All or nothing.

    Without it changes stay in this process: what was changed and released was changed for nobody.

    Raises:
        BorrowError: It is a shared borrow, it is borrowed, or it is not held by this process any more.
    """
    handle = held(changed)
    if not isinstance(handle, Seated):
        raise BorrowError(f"A shared {handle.what} cannot be updated; borrow_mut() from the owner.")
    handle.publish(unwrap(changed))


def clone(owned: T) -> T:
    """Another object of the same content, and its owner."""
    return clone_of(held(owned))  # type: ignore[no-any-return]  # a proxy of T is typed as T


def release(owned: object, *, timeout: float = PATIENCE) -> None:
    """End an owner, and the object with it, or a borrow. What has ended already may be ended again.

    Args:
        owned: An owner or a borrow.
        timeout: Seconds to wait for borrows of the owner to end.

    Raises:
        BorrowError: The owner is borrowed from, was sent, or lapsed.
    """
    check_timeout(timeout, 0)
    handle = held(owned)
    if handle.state == OVER:
        return
    if isinstance(handle, Owner):
        handle.release("Releasing", timeout)
    else:
        handle.release("Releasing")


def reclaim(owned: object) -> None:
    """Take back an owner or a mutable borrow that was sent, if nobody has used the message, or who has is dead.

    Raises:
        BorrowError: Somebody has, and lives.
    """
    handle = held(owned)
    if not isinstance(handle, Seated):
        raise BorrowError(f"A {handle.what} stays where it is when it is sent; there is nothing to take back.")
    handle.reclaim()


def scope(future: Done, *owned: object) -> None:
    """Release owners and borrows when a future is done: however it ends, and not before.

        r = borrow(image, scoped=True)
        scope(pool.submit(analyse, r), r)

    Until then they live, though nobody else refers to them, and a task that is run again finds them. What is borrowed
    otherwise too outlives its owner until that ends. Does not wait: what is to be done is done in the background.
    """
    handles = [held(each) for each in owned]
    keep_alive = list(owned)  # a handle whose proxy is collected would go with it

    def done(_: object) -> None:
        for handle in handles:
            handle.release_later()
        keep_alive.clear()

    future.add_done_callback(done)


def held(owned: object) -> Any:
    """The handle behind an owner's or a borrow's proxy; for those who build on ownership."""
    handle = _handle(owned)
    if not isinstance(handle, Handle):
        raise BorrowError(
            f"An object of type {type(owned).__name__} is neither an owner nor a borrow; own(store, obj) makes "
            f"an owner, from which others borrow."
        )
    return handle


def able(store: Store, lease: float) -> None:
    """Refuse a store that cannot hold owned objects."""
    if not isinstance(store, Store):
        raise ConfigurationError(f"Owned objects lie in a Store, not in {store!r}: make one of a URL.")
    check_ttl(lease, "lease")
    if lease >= ENDLESS:
        raise ConfigurationError(f"lease= is a positive number of seconds, and less than {ENDLESS:g}, not {lease!r}.")
    connector = store.connector
    if not isinstance(connector, SupportsCompareAndSet) or not isinstance(connector, SupportsLease):
        raise CapabilityError(
            f"{store.url} cannot hold owned objects: its connector has no compare_and_set or no renew. Of those that "
            f"come with proxyfab memory://, shm://, file://, redis:// and zmq:// have both."
        )


def _handle(owned: object) -> object:
    return factory_of(owned) if is_proxy(owned) else None
