"""The most memory that two steps of one contestant take, in a process of its own: prints GB.

    python benchmarks/peak.py torch hand 4 64 '{"dtype": "bfloat16", "compile": true}'

From Linux's VmHWM: `ru_maxrss` would begin with that of the parent.
"""

import json
import sys
from pathlib import Path

from contestants import contestant


def peak_gb() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9


if __name__ == "__main__":
    framework, who, rows, positions, options = sys.argv[1:]
    step = contestant(framework, who, int(rows), int(positions), json.loads(options))
    step()
    step()
    print(peak_gb())
