"""Makes image files misbehave by their last bytes; runs in every process that finds it on its path.

`CRASH!` ends the process with a segmentation fault, `HANG!!` hangs it with the interpreter's lock
held, and `DECODE_S` in the environment makes every file take so many seconds.
"""

import ctypes
import os
import time
from typing import Any

from PIL import ImageFile

_load = ImageFile.ImageFile.load


def load(self: Any) -> Any:
    end = getattr(self.fp, "getvalue", bytes)()[-6:]
    if end == b"CRASH!":
        ctypes.string_at(0)
    if end == b"HANG!!":
        ctypes.PyDLL(None).pause()
    time.sleep(float(os.environ.get("DECODE_S", "0")))
    return _load(self)


ImageFile.ImageFile.load = load
