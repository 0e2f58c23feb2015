"""Dask by reference: `from proxyfab.integrations.dask import Client` in place of `distributed.Client`."""
