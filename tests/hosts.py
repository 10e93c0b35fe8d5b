"""Several hosts on one machine: network namespaces joined by a bridge, a Ray node on each, an S3 store on one more.

    bridge ─┬─ store   rclone (checks signatures) behind the fault proxy
            ├─ a       Ray's head, and the driver
            └─ b, c …  Ray nodes

A namespace has its own interfaces, routes and loopback, so a host reaches another over the bridge or not at all. All
addresses lie within the namespaces: nothing of the machine's own network changes, and two runs do not meet. Every
process of a host is known by its namespace (`ip netns pids`), so that a host can be killed as a whole, and at the end
nothing is left. What hosts share is this machine's files; each has its own temporary folder, and shared memory is its
own by name.

Needs root and iproute2; `obstacle` says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from fault_proxy import FaultProxy, fault_proxy
from ranks import wait_until
from s3_servers import S3Server, rclone_server

ROOT = Path(__file__).resolve().parent.parent
RAY = Path(sys.executable).with_name("ray")
NETWORK, STORE_ADDRESS, PORT = "10.77.0", "10.77.0.2", 6379
_CLONE_NEWNET = 0x40000000
_LOST = ("_proxy", "_PROXY")  # endings of variables that would lead a host's requests elsewhere
_SLOWED = ("tbf", "burst", "16kb", "latency", "200ms")  # a token bucket
_DETECTION = {  # a host that is cut off is missed after 3 s; with Ray's defaults it takes a minute
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@functools.cache
def obstacle() -> str:
    """Why hosts cannot be made on this machine, or ""."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "ip and tc are missing: install iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"ccp-probe-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    slowed = _tc(name, "lo", *_SLOWED, "rate", "1mbit")
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return f"this kernel cannot slow an interface down: {slowed.stderr.strip()}" if slowed.returncode else ""


def _tc(namespace: str, device: str, *kind: str) -> subprocess.CompletedProcess[str]:
    """Give a device a queue of this kind for what leaves it."""
    command = ["tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *kind]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread, and what it starts meanwhile, opens its sockets in a namespace. Open sockets stay where they are."""
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{namespace}") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass
class Host:
    """A machine of its own, as far as its network and processes go."""

    name: str
    address: str
    lan: Lan
    folder: Path

    @property
    def namespace(self) -> str:
        return f"{self.lan.name}-{self.name}"

    @property
    def port(self) -> str:
        """The bridge's end of its cable."""
        return f"port-{self.name}"

    def start_ray(self, cpus: int, head: Host | None = None, **variables: str) -> None:
        """Start its node, as an administrator does: the head, or a node of `head`'s cluster. Fails with Ray's words."""
        options = ["--block", f"--node-ip-address={self.address}", f"--num-cpus={cpus}", "--disable-usage-stats"]
        options += ["--object-store-memory=100000000", f"--temp-dir={self.folder}"]
        if head is None:
            options += ["--head", f"--port={PORT}", "--include-dashboard=false"]
        else:
            options += [f"--address={head.address}:{PORT}"]
        log = self.folder / "start.log"
        log.unlink(missing_ok=True)
        process = self.start([RAY, "start", *options], log, **variables)
        started = wait_until(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, 90, 0.1)
        assert started, log.read_text()[-3000:]
        assert process.poll() is None, log.read_text()[-3000:]

    def start(self, command: Sequence[str | Path], log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """A process on this host, in a group of its own; its output goes to `log`."""
        with open(log, "ab") as sink:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                **{"stdout": sink, "stderr": subprocess.STDOUT, "cwd": ROOT, "start_new_session": True},
                env={**self.environment, **variables},
            )

    def verb(self, verb: str, *arguments: str, head: Host, log: Path) -> subprocess.Popen[bytes]:
        """A verb on the cluster, its driver on this host."""
        command = [sys.executable, "-m", f"jobs.{verb}", *arguments, "--address", f"{head.address}:{PORT}"]
        return self.start(command, log)

    @property
    def environment(self) -> Mapping[str, str]:
        """What every shell on this host has."""
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "AWS_", "CCP_RAY_"))}
        clean = {n: v for n, v in clean.items() if not n.endswith(_LOST)}
        own = {"RAY_TMPDIR": self.folder, "TMPDIR": self.folder / "tmp", "CCP_RAY_CACHE": self.folder / "cache"}
        return clean | self.lan.environment | {name: str(path) for name, path in own.items()}

    def processes(self, beginning: str = "", containing: str = "") -> list[psutil.Process]:
        """Those whose command line begins with and contains these."""
        found = []
        for pid in map(int, _ip("netns", "pids", self.namespace).split()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                line = " ".join(process.cmdline())
                if line.startswith(beginning) and containing in line:
                    found.append(process)
        return found

    def kill(self, beginning: str = "", containing: str = "") -> int:
        """SIGKILL to such processes; how many there were. Without arguments: the power fails."""
        found = self.processes(beginning, containing)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        return len(found)

    def kill_all(self) -> None:
        """Until none is left: one may have been starting another."""
        assert wait_until(lambda: self.kill() == 0, 30, 0.1), [process.cmdline() for process in self.processes()]

    def wipe(self) -> None:
        """Its local disk is lost."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "tmp").mkdir(parents=True)

    def cut(self) -> None:
        """Pull the cable: no packet leaves or arrives, and nobody is told."""
        _ip("-n", self.lan.name, "link", "set", self.port, "down")

    def mend(self) -> None:
        _ip("-n", self.lan.name, "link", "set", self.port, "up")

    def lose_way_to(self, other: Host) -> None:
        """All it sends to another host is lost, as behind a firewall that drops: that one's hardware is no one's."""
        nobody = ("lladdr", "02:00:00:00:00:01", "nud", "permanent", "dev", "eth0")
        _ip("-n", self.namespace, "neigh", "replace", other.address, *nobody)

    def find_way_to(self, other: Host) -> None:
        _ip("-n", self.namespace, "neigh", "delete", other.address, "dev", "eth0")

    def slow(self, megabits: int) -> None:
        """Let no more than this leave in a second; 0: as fast as it can. (Many kernels come without netem's delays.)"""
        done = _tc(self.namespace, "eth0", *([*_SLOWED, "rate", f"{megabits}mbit"] if megabits else ["pfifo_fast"]))
        assert done.returncode == 0, done.stderr


@dataclass
class Lan:
    """The bridge, the hosts on it, and the store."""

    name: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    proxy: FaultProxy = field(default=None)  # type: ignore[assignment]
    objects: Path = field(default=None)  # type: ignore[assignment]

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def add(self, name: str, number: int) -> Host:
        host = Host(name, f"{NETWORK}.{number}", self, self.folder / name)
        (host.folder / "tmp").mkdir(parents=True)
        _ip("netns", "add", host.namespace)
        self.hosts[name] = host
        peer = ("peer", "name", "eth0", "netns", host.namespace)
        _ip("-n", self.name, "link", "add", "name", host.port, "type", "veth", *peer)
        _ip("-n", self.name, "link", "set", host.port, "master", "bridge0")
        host.mend()
        for device in ("lo", "eth0"):
            _ip("-n", host.namespace, "link", "set", device, "up")
        _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        return host

    def bucket(self, name: str) -> Path:
        """An empty bucket, as the folder that its objects lie in: the tests' independent view."""
        (self.objects / name).mkdir()
        return self.objects / name

    def outage(self, kind: str = "503") -> None:
        """From now on the store answers every request so, until `proxy.clear`."""
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            self.proxy.inject(kind, method, times=None)

    def left(self) -> list[str]:
        """What is still there of it: namespaces (a process keeps its one) and the folder."""
        names = [line.split()[0] for line in _ip("netns", "list").splitlines() if line.startswith(self.name)]
        return [*names, *([str(self.folder)] if self.folder.exists() else [])]

    def close(self) -> None:
        """Kill what runs in the namespaces and delete them, whatever of it is there."""
        for host in self.hosts.values():
            host.kill_all()
        for namespace in [*(host.namespace for host in self.hosts.values()), self.name]:
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


@contextlib.contextmanager
def started_lan(*names: str) -> Iterator[Lan]:
    """A store and hosts of these names, without Ray yet. At the end nothing of it is left."""
    # Ray's sockets lie below: a path of pytest's would be longer than a socket's name may be.
    folder = Path(tempfile.mkdtemp(prefix="ccp-lan-"))
    lan = Lan(f"ccp-{secrets.token_hex(3)}", folder)
    try:
        _ip("netns", "add", lan.name)
        _ip("-n", lan.name, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", lan.name, "link", "set", "bridge0", "up")
        lan.add("store", 2)
        for number, name in enumerate(names, start=11):
            lan.add(name, number)
        with _store(lan):
            try:
                yield lan
            finally:
                for name in names:  # before the store: what still runs would wait for it
                    lan[name].kill_all()
    finally:
        lan.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _store(lan: Lan) -> Iterator[None]:
    lan.objects = lan.folder / "objects"
    lan.objects.mkdir()
    with contextlib.ExitStack() as stack:
        with _inside(lan["store"].namespace):  # servers start here, and stay
            server = stack.enter_context(rclone_server(lan.objects))
            lan.proxy = stack.enter_context(fault_proxy(server.endpoint, STORE_ADDRESS))
        lan.environment |= S3Server("rclone", lan.proxy.endpoint).environment()
        lan.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **_DETECTION}
        yield
