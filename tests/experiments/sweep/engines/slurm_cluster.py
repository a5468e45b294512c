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
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
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

  On exit, even after an error, all processes of the cluster are killed and its files are removed.
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
  daemons = (munged, ("slurmctld", "-D"), *(("slurmd", "-D", "-N", node) for node in ("n1", "n2")))
  with contextlib.ExitStack() as stack:
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.callback(_kill_all, str(conf))  # what the daemons started
    log = stack.enter_context((folder / "daemons.log").open("wb"))
    for daemon in daemons:
      process = subprocess.Popen(
        daemon, env=environment, stdout=log, stderr=log, start_new_session=True
      )
      stack.callback(process.wait)
      stack.callback(process.kill)
      if daemon is munged:
        _until(lambda: (folder / "munge.socket").exists(), folder)
    _until(lambda: _idle(environment) == 2, folder)
    yield environment


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


def _kill_all(conf: str) -> None:
  """Kills all processes with this configuration in their environment: daemons, steps and jobs."""
  for _ in range(3):  # a process may have forked while the others were killed
    for path in Path("/proc").glob("[0-9]*"):
      with contextlib.suppress(OSError):
        if int(path.name) != os.getpid() and conf.encode() in (path / "environ").read_bytes():
          os.kill(int(path.name), signal.SIGKILL)
    time.sleep(0.1)


if __name__ == "__main__":
  with running() as environment:
    sys.exit(subprocess.run(sys.argv[1:], env=environment, check=False).returncode)
