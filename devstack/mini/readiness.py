# SPDX-License-Identifier: Apache-2.0
"""Wait until a service does its work, not only until it runs."""

from collections.abc import Callable
import socket
import subprocess
import time
import urllib.error
import urllib.request

from mini import database
from mini import errors
from mini import services
from mini import settings
from mini import supervision

# Generous: all services load Python packages at once on few cores.
PATIENCE_SECONDS = 180


def accepts_tcp(port: int, address: str = '127.0.0.1') -> bool:
    """Tell whether something listens on a port."""
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


def answers_http(url: str) -> bool:
    """Tell whether an API answers, be it that we are not let in."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=60):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def engine_answers(host: settings.Host) -> bool:
    """Tell whether the dockerd of a host answers."""
    done = subprocess.run(
        ['docker', '--host', f'unix://{host.socket}', 'version'],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def probe(cloud: settings.Cloud, service: str) -> Callable[[], bool]:
    """Return the test that tells whether a service is ready."""
    if service == 'mariadb':
        return lambda: database.answers(cloud)
    if service.startswith('dockerd-compute'):
        host = cloud.host(int(service.removeprefix('dockerd-compute')))
        return lambda: engine_answers(host)
    kind, _, number = service.partition('-compute')
    if kind in ('sshd', 'receive'):
        address = cloud.host(int(number)).address
        return lambda: accepts_tcp(cloud.port(kind), address)
    if service in ('rabbitmq', 'memcached', 'nova-serialproxy'):
        return lambda: accepts_tcp(cloud.port(service))
    if service == 'cinder-api':
        return lambda: answers_http(cloud.url(service, '/healthcheck'))
    if service in settings.PORT_OFFSETS:
        return lambda: answers_http(cloud.url(service, '/'))
    # The others tell Nova that they are up; see seed.reports.
    return lambda: True


def await_true(
    what: str,
    test: Callable[[], bool],
    check: Callable[[], None],
    seconds: float = PATIENCE_SECONDS,
) -> None:
    """Wait until ``test`` holds; ``check`` may raise to end it early.

    :raises MinicloudError: after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not test():
        check()
        if time.monotonic() > deadline:
            raise errors.MinicloudError(
                f'{what}: not within {seconds:.0f} s',
                advice='`minicloud status`, `minicloud logs SERVICE`, then '
                '`minicloud up` again',
            )
        time.sleep(0.2)


def await_with_log(
    cloud: settings.Cloud,
    control: supervision.Supervision,
    name: str,
    test: Callable[[], bool],
) -> None:
    """Wait until ``test`` holds for a service.

    :raises MinicloudError: with the service's log, when it is not in time
        or ends again and again.
    """
    try:
        await_true(
            f'{name} ready', test, lambda: control.require_alive(name)
        )
    except errors.MinicloudError as error:
        error.log = error.log or services.log_path(cloud, name)
        raise


def await_service(
    cloud: settings.Cloud, control: supervision.Supervision, name: str
) -> None:
    """Wait until a service answers."""
    await_with_log(cloud, control, name, probe(cloud, name))
