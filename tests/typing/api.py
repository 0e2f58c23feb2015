"""The public API in every intended use. Read by mypy and pyright, never run.

A line that a checker must refuse carries a `type: ignore` or `pyright: ignore` with its code: both report one that is
not needed, so that a promise which stops being refused fails here.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, assert_type

from proxyfab import (
    Key,
    Proxy,
    Ref,
    Store,
    is_proxy,
    is_resolved,
    open_store,
    prefetch,
    ref_of,
    resolve,
    unwrap,
)
from proxyfab.abc import (
    BaseConnector,
    Connector,
    Source,
    SupportsLease,
    SupportsRange,
    SupportsReap,
    SupportsScan,
    SupportsWatch,
)
from proxyfab.buffers import Frames
from proxyfab.connectors import FileConnector, MemoryConnector, SharedMemoryConnector
from proxyfab.errors import KeyNotFound, ProxyfabError
from proxyfab.patterns import (
    ByRef,
    ByValue,
    Future,
    ProxyExecutor,
    adopt,
    as_completed,
    borrow,
    borrow_mut,
    clone,
    own,
    proxied,
    reclaim,
    release,
    scope,
    update,
    wait,
)
from proxyfab.trace import Link, Span, Total, listen, totals


class Image:
    """Somebody's own class."""

    def __init__(self, width: int) -> None:
        self.width = width

    def scaled(self, factor: float) -> Image:
        return Image(int(self.width * factor))


def length(text: str) -> int:
    return len(text)


# -- stores ------------------------------------------------------------------------------------------------------------

store = Store()
Store("file:///scratch/me", name="run7", cache="1 GiB", inline_below=0, serializer="safe")
Store(MemoryConnector())
Store(name="run7", seal=None)
Store("shm://", "run7")  # type: ignore[call-arg]  # options are keyword-only  # pyright: ignore[reportCallIssue]
assert_type(open_store("shm://run7"), Store)

with Store() as entered:
    assert_type(entered, Store)

# -- objects by key ----------------------------------------------------------------------------------------------------

key = store.put([1, 2], ttl=60)
assert_type(key, Key)
assert_type(store.put("x", key=store.reserve(), replace=True), Key)
assert_type(store.put_many(["a", "b"]), list[Key])
assert_type(store.exists(key), bool)
assert_type(store.exists_many([key]), list[bool])
assert_type(store.evict(key), bool)
assert_type(store.evict_many([key]), list[bool])
assert_type(store.clear(), int)
assert_type(Key.parse(str(key)), Key)
found: list[int] = store.get(key)
found = store.get(str(key), default=[])
many: list[list[int]] = store.get_many([key, key], default=[])

# -- proxies are typed as what they stand for --------------------------------------------------------------------------

image = store.proxy(Image(640))
assert_type(image, Image)
assert_type(image.width, int)
assert_type(image.scaled(0.5), Image)
assert_type(store.proxy("text"), str)
assert_type(store.proxy({"a": 1.0}, once=True, ttl=5.0), dict[str, float])
assert_type(store.proxy_many([Image(1), Image(2)]), list[Image])
length(store.proxy("text"))
length(store.proxy(3))  # type: ignore[arg-type]  # a proxy of an int is no str  # pyright: ignore[reportArgumentType]
image.height  # type: ignore[attr-defined]  # an Image has none  # pyright: ignore[reportAttributeAccessIssue]
anything: Image = store.proxy_from_key(key)

assert_type(is_proxy(image), bool)
assert_type(is_resolved(image), bool)
assert_type(unwrap(image), Image)
assert_type(unwrap(image, writable=True), Image)
resolve(image)
resolve(image, timeout=5.0)
prefetch(image, store.ref(Image(1)))
disguise: type[Proxy[Any]] = Proxy

# -- references --------------------------------------------------------------------------------------------------------

ref = store.ref(Image(640))
assert_type(ref, Ref[Image])
assert_type(ref(), Image)
assert_type(ref.resolve(), Image)
assert_type(ref.resolve(timeout=5.0), Image)
assert_type(ref.proxy(), Image)
assert_type(ref.nbytes, int)
assert_type(ref.exists(), bool)
assert_type(ref.to_token(seal="sign:lab"), str)
assert_type(Ref.from_token("pf1."), Ref[Any])
assert_type(ref.evict(), bool)
back: Ref[Image] = ref_of(image)
by_key: Ref[Image] = store.ref_from_key(key)
lazy: Callable[[], Image] = ref
wider: Ref[object] = ref  # a Ref only gives, so it is covariant

with store.ref(Image(640), once=True) as used:
    assert_type(used, Image)


async def coroutines() -> None:
    assert_type(await store.aput([1]), Key)
    assert_type(await store.aproxy(Image(640)), Image)
    assert_type(await store.aevict(key), bool)
    assert_type(await ref, Image)
    value: list[int] = await store.aget(key, default=[])
    waiting: Awaitable[Image] = ref
    await waiting
    value.append(1)


# -- connectors keep the promise, statically ---------------------------------------------------------------------------

source: Source = store
connectors: list[Connector] = [MemoryConnector(), SharedMemoryConnector(), FileConnector("/scratch")]
waits: list[SupportsWatch] = [MemoryConnector(), SharedMemoryConnector(), FileConnector("/scratch")]
reads_parts: list[SupportsRange] = [MemoryConnector(), SharedMemoryConnector(), FileConnector("/scratch")]
renews: list[SupportsLease] = [MemoryConnector(), SharedMemoryConnector(), FileConnector("/scratch")]
lists: list[SupportsScan] = [MemoryConnector(), SharedMemoryConnector(), FileConnector("/scratch")]
reaps: list[SupportsReap] = [MemoryConnector(), SharedMemoryConnector(), FileConnector("/scratch")]
base: list[BaseConnector] = [MemoryConnector(), SharedMemoryConnector(), FileConnector("/scratch")]
raw = MemoryConnector().put(Frames([b"bytes", bytearray(b"and more")]))
assert_type(MemoryConnector().get(raw), Frames | None)

# -- patterns ----------------------------------------------------------------------------------------------------------

future: Future[Image] = Future(store)
future.set_result(Image(640))
future.set_exception(ValueError())
assert_type(future.result(timeout=1.0), Image)
assert_type(future.exception(), BaseException | None)
assert_type(future.proxy(), Image)
assert_type(future.ref().resolve(), Image)
assert_type(Future(store, of=Image), Future[Image])
assert_type(Future(store, of=Image, key="run-1", ttl=60, timeout=None).proxy(), Image)
Future(store).set_result("of what it is, nobody said")
executors: concurrent.futures.Future[Image] = future
done, pending = wait([future, executors], timeout=1)
assert_type(done, set[concurrent.futures.Future[Image]])
for completed in as_completed([future]):
    assert_type(completed.result(), Image)


async def awaits() -> None:
    assert_type(await future, Image)
    assert_type(await future.ref(), Image)


# -- decorated functions and executors ---------------------------------------------------------------------------------


@proxied(store, above="100 KB")
def scaled(image: Image, factor: float = 2.0, *, name: str = "") -> Image:
    return image.scaled(factor)


@proxied(store, args=True, result=False, lazy=False, depth=2, ttl=60)
async def later(image: Annotated[Image, ByRef], count: Annotated[int, ByValue]) -> list[Image]:
    return [image] * count


@proxied("shm://run", above=1000)
def several(image: Image) -> Iterator[Image]:
    yield image


class Lab:
    @proxied(store)
    def measure(self, image: Image) -> float:
        return image.width

    @proxied(store)
    @classmethod
    def make(cls, width: int) -> Lab:
        return cls()

    @proxied(store)
    @staticmethod
    def free(width: int) -> int:
        return width


assert_type(scaled(Image(1), 3.0, name="a"), Image)
scaled("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
scaled(Image(1), speed=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
assert_type(Lab().measure(Image(1)), float)
assert_type(Lab.make(1), Lab)
assert_type(Lab.free(1), int)
assert_type(next(several(Image(1))), Image)


async def decorated() -> None:
    assert_type(await later(Image(1), 2), list[Image])


with ProxyExecutor(concurrent.futures.ThreadPoolExecutor(), store, above="100 KB", lazy=False) as executor:
    as_any_other: concurrent.futures.Executor = executor
    assert_type(executor.submit(scaled, Image(1), 2.0), concurrent.futures.Future[Image])
    assert_type(executor.submit(length, "text").result(), int)
    executor.submit(length, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(executor.map(length, ["a", "b"], chunksize=2), Iterator[int])


owner = own(store, Image(1), lease=10)
assert_type(owner, Image)
assert_type(borrow(owner, scoped=True, timeout=0.5), Image)
assert_type(borrow_mut(owner).scaled(2.0), Image)
assert_type(clone(owner), Image)
assert_type(adopt(store.proxy(Image(1))), Image)
scope(concurrent.futures.Future[int](), owner)
update(owner)
release(owner)
reclaim(owner)


# -- errors and observation --------------------------------------------------------------------------------------------

try:
    ref()
except KeyNotFound as error:
    missing: LookupError = error
except ProxyfabError as error:
    anything_else: Exception = error


def note(span: Span) -> None:
    assert_type(span.link, Link)
    assert_type(span.seconds, float)


stop = listen(note)
stop()
assert_type(totals.by_operation(), dict[str, Total])
