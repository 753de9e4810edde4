"""Describe what timings depend on: architecture, processor, and cores available to this
process.
"""

import os
import platform
from pathlib import Path
from typing import Any


def describe_cpu() -> dict[str, Any]:
    """Return the ``machine`` (architecture), the ``processor`` and the number of
    ``cores``.
    """
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    return {"machine": platform.machine(), "processor": _processor(), "cores": cores}


def read_cpuinfo() -> dict[str, str]:
    """Return the fields of Linux's ``/proc/cpuinfo``, of its last processor; empty on
    other systems.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields


def _processor() -> str:
    """Return the name of the processor."""
    fields = read_cpuinfo()
    return (
        fields.get("model name")
        or fields.get("Model")
        or platform.processor()
        or "unknown"
    )
