"""The memory of a stage: the peak of this process while the stage was at work."""

import contextlib
import re
import sys
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def take_peak_memory() -> dict[str, int]:
    """Return the peak memory in bytes since the last call, or since the process began, and measure anew from here on.

    "resident" is the resident set of this process, "cuda" what torch has allocated on the GPU, if torch has one. A peak
    that the system does not measure anew is left out: that of the whole process would say nothing about the stage.
    """
    peak = {}
    with contextlib.suppress(OSError):
        match = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        # proc(5): 5 resets the peak to the present size.
        RESET.write_text("5", encoding="ascii")
        if match:
            peak["resident"] = 1024 * int(match[1])
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    return peak
