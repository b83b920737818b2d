"""The peak memory of one cell, in a process that runs several cells."""

from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The peak memory since the creation of this object: of torch on a GPU, or on the CPU of the whole process.

    Memory that was in use at the creation is included.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.counts = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            CLEAR.write_text("5")  # resets VmHWM: proc(5)
        except OSError:  # another system, or a container that forbids it
            self.counts = False

    def mb(self) -> float | None:
        """Return the peak in MB (10^6 bytes); None if the system can't measure it from a point in time on."""
        if not self.counts:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
