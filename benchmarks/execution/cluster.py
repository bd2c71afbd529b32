"""Ray: started on this machine, or joined."""

from __future__ import annotations

import logging
import os
from typing import Any

from benchmarks.common.errors import UserError


def start_ray(address: str | None) -> bool:
    """Join the cluster at `address`, or start Ray on this machine. False if Ray was running already."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths must keep their meaning in workers
    import ray

    if ray.is_initialized():
        return False
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except ConnectionError as error:
        raise UserError(f"no Ray cluster answers at '{address}' ({error})") from error
    return True
