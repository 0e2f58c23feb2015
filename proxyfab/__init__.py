"""proxyfab: references travel with the control flow, bulk data moves once."""

from proxyfab.keys import Key
from proxyfab.proxy import Proxy, is_proxy, is_resolved, resolve, unwrap
from proxyfab.proxy import again as _again  # noqa: F401  # by this name, the shortest, proxies pickle
from proxyfab.ref import Ref, prefetch, ref_of
from proxyfab.store import Store, open_store

__all__ = [
    "Key",
    "Proxy",
    "Ref",
    "Store",
    "is_proxy",
    "is_resolved",
    "open_store",
    "prefetch",
    "ref_of",
    "resolve",
    "unwrap",
]
