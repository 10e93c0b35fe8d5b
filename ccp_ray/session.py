"""The Ray session a job runs in: a local Ray of its own, or the cluster at an address.

A local Ray starts without a dashboard, demands a token that it makes up itself and ends with the process that
started it, even if that process is killed. On a cluster that demands a token, set RAY_AUTH_MODE=token and
RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as for Ray's own tools.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccp_ray.endpoint import checked_endpoint
from ccp_ray.errors import CcpError
from ccp_ray.head_loss import answers, head_loss_told
from ccp_ray.log_fields import VARIABLE as LOGS
from ccp_ray.model_code import VARIABLE as TRUST
from ccp_ray.patience import VARIABLE as PATIENCE
from ccp_ray.ray_token import demand_token, forget_token

# Read by Ray when it is imported or when its processes start, so they are set before `import ray`.
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # After a death Ray Train still counts the dead node, and waits that long (60 s by itself) for as many workers.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    # The driver's request for a worker to a host that was cut off hangs until gRPC misses the host, even when Ray has
    # declared it dead: after 300 s and 120 s by themselves. Ray's servers refuse pings more often than 60 s, unless
    # they are told so too.
    "RAY_grpc_client_keepalive_time_ms": "60000",
    "RAY_grpc_client_keepalive_timeout_ms": "60000",
    "RAY_DEDUP_LOGS": "0",
    # A worker that has reserved no GPU sees none: else whoever is told to keep to the CPU (resources.gpu=false) takes
    # the GPUs of others on its node.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # ours are shown instead
    "TOKENIZERS_PARALLELISM": "false",  # forked workers; Ray gives the parallelism
    "DS_ACCELERATOR_QUIET": "1",
}
_PACKAGES = ("ccp_ray", "jobs", "eval")
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray tells a submitted job's driver in it how the job was submitted


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

    Raises CcpError when the cluster cannot be reached or refuses the token, or its head is lost within the session.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    if address is None:
        demand_token()
    else:
        _check_reachable(address)
        forget_token()
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options |= {"object_store_memory": _object_store_bytes()}
        os.environ.pop("RAY_ADDRESS", None)  # "no address" means a local Ray, whatever the shell says
    else:
        options |= {"runtime_env": _runtime_environment()}
    try:
        shown = _start(address, options)
    except Exception as error:
        if "Version mismatch" in str(error):
            raise CcpError(f"Ray at {address}: {_mismatch(str(error))}") from error
        where = f"reach Ray at {address}" if address else "start a local Ray"
        # The port answered, and a client with a wrong token gets no other answer than silence.
        hint = "; is this its GCS port, and are RAY_AUTH_MODE and the token (RAY_AUTH_TOKEN) the cluster's?"
        raise CcpError(f"cannot {where}: {_first_line(error)}{hint if address else ''}") from error
    _quiet()
    # Ray Train's page in the dashboard; without one there is nobody to keep the state of trainings for.
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", str(int(shown)))
    # Through ray://, the head's own address may be none for this machine.
    direct = address is not None and not address.startswith("ray://")
    try:
        with head_loss_told(ray.get_runtime_context().gcs_address) if direct else contextlib.nullcontext():
            yield
    finally:
        if not _deferred:
            ray.shutdown()


def _start(address: str | None, options: dict[str, Any]) -> bool:
    """Whether the session has a dashboard.

    Ray gives its processes 30 s to start; on a machine that is busy just then a second try helps.
    """
    import ray

    try:
        context = ray.init(address or "local", **options)
    except Exception as error:
        if address is not None or "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        context = ray.init("local", **options)
    return bool(context.dashboard_url)


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
    if any(answers(f"{name}:{port}") for name in hosts):
        return
    raise CcpError(f"cannot reach Ray at {address}: nobody answers there; is the cluster up, and is this its GCS port?")


def cluster_cpus() -> int:
    """CPUs that Ray may schedule on, over all nodes."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def cluster_gpus() -> int:
    """GPUs that Ray may schedule on, over all nodes."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def largest_node(resource: str) -> float:
    """The most of a resource ("CPU", "GPU", "memory" in bytes) that one living node of the session offers."""
    import ray

    return max((node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)


def _worker_environment() -> dict[str, str]:
    """What workers elsewhere need to know; never a credential: nodes have their own chain."""
    names = [*_ENVIRONMENT, LOGS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", PATIENCE, TRUST]
    for name in names:
        if name.startswith("AWS_ENDPOINT"):
            checked_endpoint(os.environ.get(name, ""))  # it is kept in the job's metadata, for all to read
    return {name: os.environ[name] for name in names if name in os.environ}


def _runtime_environment() -> dict[str, Any]:
    """What workers get from this driver: these packages and names, but for what a submitted job has brought already.

    Ray refuses a driver that says a second time what its job said.
    """
    submitted = json.loads(os.environ.get(_SUBMITTED, "{}")).get("runtime_env") or {}
    told = submitted.get("env_vars") or {}
    env = {"env_vars": {name: value for name, value in _worker_environment().items() if name not in told}}
    # A working directory that holds these packages is on every worker's path.
    brought = "py_modules" in submitted or ("working_dir" in submitted and _top() == Path.cwd())
    return env if brought else {**env, "py_modules": _package_folders()}


def _top() -> Path:
    return Path(__file__).resolve().parent.parent


def _package_folders() -> list[str]:
    return [str(_top() / name) for name in _PACKAGES if (_top() / name).is_dir()]


def _object_store_bytes() -> int:
    import psutil

    return int(min(2 << 30, 0.2 * psutil.virtual_memory().available))


def _mismatch(message: str) -> str:
    """Ray's own message about versions, seven lines, as one."""
    found = re.findall(r"(Ray|Python): (\S+)", message)  # the cluster's two, then ours
    if len(found) != 4:
        return " ".join(message.split())
    theirs, ours = (" and ".join(f"{name} {version}" for name, version in half) for half in (found[:2], found[2:]))
    return f"the cluster has {theirs}, this machine has {ours}; both must be the same: install the cluster's here"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
