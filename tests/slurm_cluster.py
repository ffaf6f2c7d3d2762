"""A real Slurm of two nodes on this host, in a folder of its own: its daemons, its jobs and its cgroups end with it.

The nodes' names, the ports and the job numbers are its own, so that it stands beside another Slurm, or beside what a
killed test run left. The second node is there for heterogeneous jobs: Slurm wants a node for each of their parts.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from carbon_exporter.demo.servers import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
DEADLINE_SECONDS = 60.0
CGROUPS = Path("/sys/fs/cgroup")
CONFIGURATION = """
ClusterName=carbon
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_min_interval=0
FirstJobId={first_job}
MaxJobId={last_job}
KillWait=1
ReturnToService=2
NodeName={node}a NodeHostname=localhost NodeAddr=127.0.0.1 Port={first_port} CPUs=2 RealMemory=1000
NodeName={node}b NodeHostname=localhost NodeAddr=127.0.0.1 Port={second_port} CPUs=2 RealMemory=1000
PartitionName=debug Nodes={node}a Default=YES MaxTime=INFINITE State=UP
PartitionName=other Nodes={node}b MaxTime=INFINITE State=UP
"""
CGROUP_CONFIGURATION = f"""
CgroupPlugin=autodetect
CgroupMountpoint={CGROUPS}
ConstrainCores=yes
ConstrainRAMSpace=yes
IgnoreSystemd=yes
"""


class Cluster:
    """The running Slurm; made by `cluster`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes = f"carbon{os.getpid()}"
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def call(self, *words: str, **variables: str) -> str:
        """The output of one of Slurm's commands; `variables` are what a job gets from here beside its usual ones."""
        result = self._run(*words, **variables)
        assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}\n{self.logs()}"
        return result.stdout

    def _run(self, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words,
            env=self.environment | variables,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def submit(self, script: str, *options: str, **variables: str) -> str:
        """Submit a job that runs the shell commands `script`, on one CPU unless `options` say more; its number."""
        path = self.folder / f"{time.monotonic_ns()}.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        words = ["sbatch", "--parsable", f"--output={self.folder}/%A.%a.out", "--mem=100", *options, str(path)]
        return self.call(*words, **variables).strip()

    def output(self, job: str) -> str:
        """What a job has written so far."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{job}.*.out")))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds; the logs tell why it does not."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            dead = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            assert not dead, f"{dead} ended\n{self.logs()}"
            assert time.monotonic() < deadline, f"not in {DEADLINE_SECONDS:.0f} s: {what}\n{self.logs()}"
            time.sleep(0.02)

    def wait_for_output(self, job: str, text: str) -> str:
        """Wait until the job has written `text`; all that it has written."""
        self.wait(lambda: text in self.output(job), f"{text!r} from job {job}")
        return self.output(job)

    def is_over(self, job: str) -> bool:
        """Whether nothing of the job is left: no process, no control group."""
        return not any(folder.endswith(f"/job_{job}") for folder in self.folders())

    def clear(self) -> None:
        """End every job, and wait until none is left."""
        self.call("scancel", "--quiet", "--full", "--user=root")
        self.wait(lambda: not self.call("squeue", "--noheader").strip(), "no job left")
        self.wait(lambda: not any("/job_" in folder for folder in self.folders()), "no job's cgroup left")

    def folders(self) -> list[str]:
        """The control groups of this Slurm in all hierarchies, parents first."""
        tops = [*CGROUPS.glob(f"*/slurm_{self.nodes}?"), *CGROUPS.glob(f"system.slice/{self.nodes}?_slurmstepd.scope")]
        return [path for top in tops for path, _, _ in os.walk(top)]

    def logs(self) -> str:
        """The last lines of every daemon."""
        logs = {path.name: path.read_text(errors="replace").splitlines() for path in self.folder.glob("*.log")}
        return "\n".join(f"--- {name}\n" + "\n".join(lines[-15:]) for name, lines in sorted(logs.items()))

    def state(self) -> list[str]:
        """What Slurm says of each node; nothing while the controller does not answer yet."""
        return self._run("sinfo", "--Node", "--noheader", "--format=%T").stdout.split()

    @contextlib.contextmanager
    def daemon(self, log: str, *command: str) -> Iterator[None]:
        """The daemon in the foreground, for the time of the block."""
        with (self.folder / f"{log}.log").open("wb") as output:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.daemons.append(process)
        try:
            yield
        finally:
            self.daemons.remove(process)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start the daemons one after the other; end them in the opposite order, when no job is left."""
    slurm = Cluster(folder)
    _configure(slurm)
    files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    munge = [*(f"--{kind}={folder}/{name}" for kind, name in files.items()), f"--log-file={folder}/munge.log"]
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(slurm.daemon("munged", "munged", "--foreground", "--force", *munge))
            slurm.wait((folder / "munge.sock").exists, "munged listens")
            stack.enter_context(slurm.daemon("slurmctld", "slurmctld", "-D", "-i"))
            for name in "ab":
                stack.enter_context(slurm.daemon(f"slurmd-{name}", "slurmd", "-D", "-N", f"{slurm.nodes}{name}"))
            slurm.wait(lambda: slurm.state() == ["idle", "idle"], "both nodes are idle")
            stack.callback(slurm.clear)
            yield slurm
    finally:
        _remove_cgroups(slurm)


def _configure(slurm: Cluster) -> None:
    for name in ("state", "spool"):
        (slurm.folder / name).mkdir()
    first_job = random.randrange(1, 60_000) * 1000
    values = {
        "folder": slurm.folder,
        "node": slurm.nodes,
        "controller_port": free_port(),
        "first_port": free_port(),
        "second_port": free_port(),
        "first_job": first_job,
        "last_job": first_job + 999,
    }
    (slurm.folder / "slurm.conf").write_text(CONFIGURATION.format_map(values))
    (slurm.folder / "cgroup.conf").write_text(CGROUP_CONFIGURATION)
    key = slurm.folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)


def _remove_cgroups(slurm: Cluster) -> None:
    """Kill what is left in the control groups, and remove them."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while folders := slurm.folders():
        assert time.monotonic() < deadline, f"{folders} cannot be removed"
        for folder in reversed(folders):
            with contextlib.suppress(OSError):
                for pid in Path(folder, "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                Path(folder).rmdir()
        time.sleep(0.02)
