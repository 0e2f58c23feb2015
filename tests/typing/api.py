"""The public API in every intended use. Read by mypy and pyright, never run."""

from __future__ import annotations
