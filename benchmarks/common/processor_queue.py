"""How long a thread was ready to run while other work held the processors, which a budget in minutes charges."""

from __future__ import annotations

from pathlib import Path

# "ran, waited, times" in nanoseconds, see sched-stats in the documentation of the Linux kernel
SCHEDULE = Path("/proc/thread-self/schedstat")


def seconds_queued() -> float:
    """Seconds that the calling thread has waited for a processor so far; 0 where the system does not count them."""
    try:
        words = SCHEDULE.read_text(encoding="ascii").split()
    except OSError:  # not Linux, a kernel without these figures, or one that does not show them
        return 0.0
    return int(words[1]) / 1e9 if len(words) > 1 else 0.0
