"""The Ray session a job runs in: a local Ray of its own, or the cluster at an address.

A local Ray starts without a dashboard, demands a token that it makes up itself and ends with the process that
started it, even if that process is killed. On a cluster that demands a token, set RAY_AUTH_MODE=token and
RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as for Ray's own tools.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccp_ray.errors import CcpError

# Read by Ray when it is imported or when its processes start, so they are set before `import ray`.
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # After a death Ray Train still counts the dead node, and waits that long (60 s by itself) for as many workers.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a FutureWarning about CUDA_VISIBLE_DEVICES
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",  # needs the dashboard, which a local Ray does not start
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # ours are shown instead
    "TOKENIZERS_PARALLELISM": "false",  # forked workers; Ray gives the parallelism
    "DS_ACCELERATOR_QUIET": "1",
}
_PACKAGES = ("ccp_ray", "jobs", "eval")
_KNOCK_S = 10.0


_deferred = False  # within `ray_session_at_need`


@contextlib.contextmanager
def ray_session_at_need() -> Iterator[None]:
    """The `ray_session()`s within share one local Ray, started by the first of them and ended with this one.

    So a wrong path is told at once, and not after the seconds that Ray takes to start.
    """
    global _deferred
    before, running = _deferred, "ray" in sys.modules and sys.modules["ray"].is_initialized()
    _deferred = True
    try:
        yield
    finally:
        _deferred = before
        if not before and not running and "ray" in sys.modules:
            sys.modules["ray"].shutdown()


@contextlib.contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Connect to `address`, or start a local Ray with `cpus` CPUs (all); re-entrant.

    Raises CcpError when the cluster cannot be reached or refuses the token.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options |= {"object_store_memory": _object_store_bytes()}
        os.environ.pop("RAY_ADDRESS", None)  # "no address" means a local Ray, whatever the shell says
    else:
        _check_reachable(address)
        options |= {"runtime_env": {"py_modules": _package_folders(), "env_vars": _worker_environment()}}
    try:
        _start(address, options)
    except Exception as error:
        where = f"reach Ray at {address}" if address else "start a local Ray"
        # The port answered, and a client with a wrong token gets no other answer than silence.
        hint = "; is this its GCS port, and are RAY_AUTH_MODE and the token (RAY_AUTH_TOKEN) the cluster's?"
        raise CcpError(f"cannot {where}: {_first_line(error)}{hint if address else ''}") from error
    _quiet()
    try:
        yield
    finally:
        if not _deferred:
            ray.shutdown()


def _start(address: str | None, options: dict[str, Any]) -> None:
    """Ray gives its processes 30 s to start; on a machine that is busy just then a second try helps."""
    import ray

    try:
        ray.init(address or "local", **options)
    except Exception as error:
        if address is not None or "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        ray.init("local", **options)


def _quiet() -> None:
    """Keep Ray's own reports in its log files and off the console: ours say what a person needs."""
    import ray.data  # configures its loggers when imported, so this comes first
    import ray.train

    for name in ("ray", "ray.data", "ray.train"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
        logger.propagate = False
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False


def machine_cpus() -> int:
    """CPUs that this process may use: what a local Ray will have."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_reachable(address: str) -> None:
    """Ray's own client ends the whole process when nobody answers, after a minute; so knock first."""
    host, separator, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not separator or not port.isdigit():
        return  # "auto", "local": Ray looks for a cluster itself and raises
    hosts = [host.strip("[]")]
    if host in ("127.0.0.1", "localhost"):
        import ray.util

        hosts.append(ray.util.get_node_ip_address())  # where Ray looks when it is told a loopback address
    for name in hosts:
        with contextlib.suppress(OSError), socket.create_connection((name, int(port)), timeout=_KNOCK_S):
            return
    raise CcpError(f"cannot reach Ray at {address}: nobody answers there; is the cluster up, and is this its GCS port?")


def cluster_cpus() -> int:
    """CPUs that Ray may schedule on, over all nodes."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def largest_node(resource: str) -> float:
    """The most of a resource ("CPU", "GPU", "memory" in bytes) that one living node of the session offers."""
    import ray

    return max((node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)


def _worker_environment() -> dict[str, str]:
    """What workers elsewhere need to know; never a credential: nodes have their own chain."""
    names = [*_ENVIRONMENT, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "CCP_RAY_STORE_PATIENCE"]
    return {name: os.environ[name] for name in names if name in os.environ}


def _package_folders() -> list[str]:
    top = Path(__file__).resolve().parent.parent
    return [str(top / name) for name in _PACKAGES if (top / name).is_dir()]


def _object_store_bytes() -> int:
    import psutil

    return int(min(2 << 30, 0.2 * psutil.virtual_memory().available))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
