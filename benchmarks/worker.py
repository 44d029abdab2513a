"""One side of a comparison: a process that does a named work for each line on its standard input."""

import contextlib
import gc
import json
import resource
import sys
import time
from pathlib import Path

import torch
import works

LEAST_SECONDS = 0.5
"""A work is repeated for so long: at first it finds threads asleep and caches cold, as no loop over a corpus does."""


def peak_mb(reset: bool = False) -> float:
    """Highest resident size of this process since the last reset, in MB."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    except OSError:  # not Linux: the highest of the whole run
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Answer until the input ends."""
    name, folder, device, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    side = works.kind(name, folder, device)
    print(json.dumps({"version": side.version, "torch": torch.__version__}), flush=True)
    current, run = None, None
    for line in sys.stdin:
        work = line.strip()
        if not hasattr(side, work):
            print(json.dumps({"absent": f"{name} does not do this"}), flush=True)
            continue
        scope = getattr(side, "scope", None) or contextlib.nullcontext
        if work != current:  # made outside inference mode: weights made inside do not count their changes
            run = None
            gc.collect()
            torch.manual_seed(0)
            current, run = work, getattr(side, work)()
        with scope(), contextlib.nullcontext() if work.startswith("step") else torch.inference_mode():
            before = peak_mb(reset=True)
            if device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated() / 1e6
                torch.cuda.synchronize()
            times, start = 0, time.perf_counter()
            while time.perf_counter() - start < LEAST_SECONDS:
                check = run()
                if device.startswith("cuda"):
                    torch.cuda.synchronize()
                times += 1
            seconds = (time.perf_counter() - start) / times
        mb = torch.cuda.max_memory_allocated() / 1e6 if device.startswith("cuda") else peak_mb()
        print(json.dumps({"seconds": seconds, "mb": mb, "before_mb": before, "check": check}), flush=True)


if __name__ == "__main__":
    main()
