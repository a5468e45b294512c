"""A SLURM cluster of two nodes on the local machine, for tests.

  PYTHONPATH=tests/experiments/sweep/engines python -m slurm_cluster COMMAND...

starts a cluster, runs the command in its environment, and then stops the cluster.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")  # Debian: slurm-wlm, munge
# Daemons are in /usr/sbin, which is not on every user's PATH.
_PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
# The first argument of the process that stops a cluster once its standard input closes. The second
# argument is the path of the cluster's configuration.
_END = "--end"
_NODES = ("n1", "n2")
# With JobRequeue=0, only jobs that ask for it are requeued. A requeued job starts again after
# cred_expire seconds. slurmd ends a job that `scontrol update StartTime=now` starts sooner, because
# its credential is revoked.
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
JobRequeue=0
MinJobAge=5
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE OverSubscribe=NO
PartitionName=short Nodes=n1,n2 MaxTime=1
"""


def missing() -> list[str]:
  """Returns the names of required programs that are not installed."""
  return [name for name in NEEDED if shutil.which(name, path=_PATH) is None]


def _free_ports(count: int) -> list[int]:
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
    return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
  """Starts a cluster without accounting; yields the environment variables for its commands.

  On exit, even after this process is killed, all processes of the cluster are killed and its files
  are removed.
  """
  # The path of a socket is limited to 107 characters, and those of pytest's folders are long.
  folder = Path(tempfile.mkdtemp(prefix="slurm"))
  host = socket.gethostname().split(".")[0]
  conf = folder / "slurm.conf"
  conf.write_text(
    _CONF.format(folder=folder, host=host, ports=_free_ports(3), user=getpass.getuser())
  )
  (folder / "state").mkdir()
  key = folder / "munge.key"
  key.write_bytes(secrets.token_bytes(128))
  key.chmod(0o600)
  environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(conf)}
  munged = ("munged", "--foreground", "--force", f"--key-file={key}")
  munged += (f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid")
  munged += (f"--seed-file={folder}/munged.seed", f"--log-file={folder}/munged.log")
  # This process stops the cluster when the pipe to it closes, which happens even after a SIGKILL.
  guard = subprocess.Popen(
    (sys.executable, __file__, _END, conf), stdin=subprocess.PIPE, start_new_session=True
  )
  daemons: list[subprocess.Popen[bytes]] = []
  try:
    with (folder / "daemons.log").open("wb") as log:

      def start(command: tuple[str, ...], **variables: str) -> None:
        daemons.append(
          subprocess.Popen(
            command, env=environment | variables, stdout=log, stderr=log, start_new_session=True
          )
        )

      start(munged)
      _until(lambda: (folder / "munge.socket").exists(), folder)
      start(("slurmctld", "-D"))
      for node in _NODES:
        start(("slurmd", "-D", "-N", node), SLURMD_NODENAME=node)
      _until(lambda: _idle(environment) == len(_NODES), folder)
    yield environment
  finally:
    guard.communicate()
    for daemon in daemons:
      daemon.wait()


def crash(node: str) -> None:
  """Kills a node's daemon, in the cluster that SLURM_CONF names, and all processes it started."""
  _kill(os.environ["SLURM_CONF"], f"SLURMD_NODENAME={node}\0")


def _idle(environment: dict[str, str]) -> int:
  command = ("sinfo", "--noheader", "--Node", "--partition=cpu", "--states=idle")
  result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
  return len(result.stdout.splitlines())


def _until(ready, folder: Path) -> None:
  late = time.monotonic() + 60
  while not ready():
    if time.monotonic() > late:
      raise RuntimeError("\n".join(p.read_text() for p in sorted(folder.glob("*.log"))))
    time.sleep(0.1)


def _kill(*words: str) -> None:
  """Kills the processes, except this one, whose environment contains all of these words."""
  for _ in range(3):  # a process may have forked while the others were killed
    for path in Path("/proc").glob("[0-9]*"):
      with contextlib.suppress(OSError):
        variables = (path / "environ").read_bytes()
        if int(path.name) != os.getpid() and all(word.encode() in variables for word in words):
          os.kill(int(path.name), signal.SIGKILL)
    time.sleep(0.1)


def _main(first: str, *others: str) -> int:
  if first == _END:
    (conf,) = others
    sys.stdin.read()
    _kill(conf)
    shutil.rmtree(Path(conf).parent, ignore_errors=True)
    return 0
  with running() as environment:
    return subprocess.run((first, *others), env=environment, check=False).returncode


if __name__ == "__main__":
  sys.exit(_main(*sys.argv[1:]))
