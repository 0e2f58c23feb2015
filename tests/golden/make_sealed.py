"""Writes the sealed golden files once: `python -m tests.golden.make_sealed`. They are never written again.

The keys are public on purpose: they keep nothing secret but these files.
"""

from __future__ import annotations

import os
from pathlib import Path

from proxyfab.buffers import Frames
from proxyfab.seal import Seal

KEYS = {
    "PROXYFAB_KEY_GOLDEN": "Z29sZGVuIGdvbGRlbiBnb2xkZW4gZ29sZGVuIGdvbDE=",
    "PROXYFAB_SIGN_GOLDEN": "Z29sZGVuIGdvbGRlbiBnb2xkZW4gZ29sZGVuIGdvbDI=",
}
CONTENT = bytes(range(256)) * 3

if __name__ == "__main__":
    os.environ.update(KEYS)
    for mode in ("sign", "encrypt", "encrypt-chacha20", "ed25519"):
        path = Path(__file__).parent / f"sealed-v1-{mode}.bin"
        if not path.exists():
            path.write_bytes(Seal(mode, "golden").seal(Frames([CONTENT]), "golden", "object", bits=8).tobytes())
