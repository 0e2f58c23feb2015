"""Dask by reference: `from proxyfab.integrations.dask import Client` in place of `distributed.Client`."""

from proxyfab.integrations.dask.client import Client, disable, enable
from proxyfab.integrations.dask.preload import dask_setup
from proxyfab.integrations.dask.stats import stats

__all__ = ["Client", "dask_setup", "disable", "enable", "stats"]
