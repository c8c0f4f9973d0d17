# SPDX-License-Identifier: Apache-2.0
"""`minicloud down` and `clean`: leave nothing behind.

Standard library only, and nothing here trusts that the cloud is whole: it
also takes down half a cloud, or one whose supervisord was killed.
"""

from concurrent import futures
import shutil

from mini import engines
from mini import errors
from mini import leftovers
from mini import network
from mini import processes
from mini import services
from mini import settings
from mini import steps

COMPUTE_GRACE_SECONDS = 50.0
ENGINE_GRACE_SECONDS = 15.0
# uWSGI, once it has served uploads, spins at SIGTERM: it is stateless.
CONTROL_GRACE_SECONDS = 10.0
BASE_GRACE_SECONDS = 30.0
CONTROL_SERVICES = (
    *('keystone', 'placement', 'glance', 'nova-', 'neutron-', 'cinder-'),
    'step',
)


def _group(process: processes.Process) -> int:
    """Return with which group of services a process ends."""
    name = process.service
    if name.startswith('nova-compute-'):
        return services.COMPUTE
    if name.startswith(('dockerd-', 'sshd-', 'receive-')):
        return services.ENGINE
    if name.startswith(CONTROL_SERVICES):
        return services.CONTROL
    return services.BASE


def _mine(cloud: settings.Cloud, group: int) -> list[processes.Process]:
    """Return the live processes of one group."""
    found = processes.members(cloud.home)
    return [p for p in found if _group(p) == group]


def _end_supervisord(cloud: settings.Cloud) -> None:
    """Kill supervisord first: it would start again what we end.

    It is not asked to end itself: it would end its services in an order
    of its own.
    """
    found = processes.members(cloud.home)
    processes.kill([p for p in found if p.service == 'supervisord'])


def _end_engines(cloud: settings.Cloud) -> int:
    """End containers and their engines, whatever state they are in."""
    hosts = [host for host in cloud.hosts if host.folder.is_dir()]
    with futures.ThreadPoolExecutor(len(hosts) or 1) as pool:
        stopped = sum(pool.map(engines.stop_all, hosts))
    found = _mine(cloud, services.ENGINE)
    processes.end([p for p in found if not p.is_shim], ENGINE_GRACE_SECONDS)
    leftovers.kill_containers(cloud.hosts)
    processes.end(_mine(cloud, services.ENGINE), 2)
    return stopped


def _remove_traces(cloud: settings.Cloud) -> None:
    """Remove what is in the kernel and in /run, once no process is left."""
    for host in cloud.hosts:
        leftovers.remove_shim_sockets(host)
    leftovers.unmount(cloud.home)
    leftovers.detach_loops(cloud.home)
    leftovers.remove_cgroups(cloud.hosts)
    network.down(cloud)
    for host in cloud.hosts:
        host.socket.unlink(missing_ok=True)
    shutil.rmtree(cloud.run, ignore_errors=True)


def down(cloud: settings.Cloud, say: steps.Say) -> None:
    """Stop the cloud. Servers, images and databases are kept.

    :raises MinicloudError: if a process of ours cannot be ended.
    """
    if not cloud.home.is_dir():
        say(f'no cloud in {cloud.home}')
        return
    clock = steps.Clock(say)
    _end_supervisord(cloud)
    processes.end(_mine(cloud, services.COMPUTE), COMPUTE_GRACE_SECONDS)
    clock.tick('compute services ended')
    count = _end_engines(cloud)
    clock.tick(f'{count} containers stopped, engines ended')
    processes.end(_mine(cloud, services.CONTROL), CONTROL_GRACE_SECONDS)
    clock.tick('control services ended')
    processes.end(_mine(cloud, services.BASE), BASE_GRACE_SECONDS)
    clock.tick('databases ended')
    left = list(processes.members(cloud.home))
    if left:
        pids = ', '.join(f'{p.pid} ({p.executable})' for p in left)
        raise errors.MinicloudError(
            f'these processes cannot be ended: {pids}',
            advice='they wait in the kernel; look at /proc/PID/stack',
        )
    _remove_traces(cloud)
    clock.tick('namespaces, mounts and cgroups removed')


def clean(cloud: settings.Cloud, say: steps.Say) -> None:
    """Stop the cloud and delete all its data; the cache is kept."""
    down(cloud, say)
    if cloud.home.is_dir():
        shutil.rmtree(cloud.home)
        say(f'{cloud.home} deleted')
