"""Lazy transparent proxies of anything a callable returns. Knows no store."""

from proxyfab.proxy.classes import Proxy, again, kind_of, make, rebuild, unsettle
from proxyfab.proxy.copying import json_default, unwrap
from proxyfab.proxy.kind import Kind, find_type, is_singleton, kind_of_type
from proxyfab.proxy.layout import factory_of, is_proxy, is_resolved
from proxyfab.proxy.waking import resolve

__all__ = [
    "Kind",
    "Proxy",
    "again",
    "factory_of",
    "find_type",
    "is_proxy",
    "is_resolved",
    "is_singleton",
    "json_default",
    "kind_of",
    "kind_of_type",
    "make",
    "rebuild",
    "resolve",
    "unsettle",
    "unwrap",
]
