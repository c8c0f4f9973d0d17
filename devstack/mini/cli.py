# SPDX-License-Identifier: Apache-2.0
"""The command line of the mini cloud."""

import argparse
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import fcntl
import os
import pathlib
import sys
import threading

from mini import access
from mini import down
from mini import errors
from mini import install
from mini import settings

# Commands that need the venv's packages; they run under its interpreter.
IN_VENV = {'up', 'status', 'demo', 'ssh', 'fake-host', 'tempest'}
# Commands that change the cloud: one at a time.
EXCLUSIVE = {'up', 'down', 'clean', 'fake-host', 'tempest'}
_say_lock = threading.Lock()


def say(line: str) -> None:
    """Print a line whole, at once."""
    with _say_lock:
        print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='minicloud', description=__doc__, allow_abbrev=False
    )
    verbs = parser.add_subparsers(
        dest='verb', required=True, metavar='COMMAND'
    )

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text)

    installs = [
        verb('install', 'install packages, venv and this checkout'),
        verb('up', 'bring the cloud up, or what of it is missing'),
    ]
    for one in installs:
        one.add_argument(
            '--editable',
            action='store_true',
            default=bool(os.environ.get('MINICLOUD_EDITABLE')),
            help='run this checkout itself, no copy of it',
        )
    for one in installs:
        one.add_argument(
            '--with-cinder',
            action='store_true',
            help='have Cinder too, and volumes',
        )
        one.add_argument(
            '--with-horizon',
            action='store_true',
            help='have the dashboard too',
        )
    installs[1].add_argument('--no-install', action='store_true')
    installs[1].add_argument('--hosts', type=int, metavar='N')
    verb('down', 'stop everything; servers and databases are kept')
    verb('clean', 'stop everything and delete all data')
    verb('status', 'show services, versions, memory and URLs')
    verb('demo', 'boot servers on all hosts and log into one')
    openrc = verb('openrc', 'print the file to source for `openstack`')
    openrc.add_argument('user', nargs='?', choices=('admin', 'demo'))
    logs = verb('logs', 'show the log of a service')
    logs.add_argument('service')
    logs.add_argument('-f', '--follow', action='store_true')
    lan = verb('lan', 'run a command in the LAN of the servers')
    lan.add_argument('command', nargs=argparse.REMAINDER)
    ssh = verb('ssh', 'log into a server')
    ssh.add_argument('server')
    ssh.add_argument('command', nargs=argparse.REMAINDER)
    fake = verb('fake-host', 'a host with the fake driver of Nova, to compare')
    fake.add_argument('action', choices=('up', 'down'))
    tempest = verb('tempest', "run OpenStack's own tests of compute")
    tempest.add_argument(
        'regex', nargs='?', default='', help='of names; all without it'
    )
    tempest.add_argument(
        '--short', action='store_true', help='a choice for a few minutes'
    )
    tempest.add_argument('--workers', type=int, default=2, metavar='N')
    return parser


@contextlib.contextmanager
def _lock(cloud: settings.Cloud) -> Iterator[None]:
    """Hold the cloud's lock.

    :raises MinicloudError: when another command holds it.
    """
    # Not in the cloud's home: `clean` removes that.
    name = str(cloud.home).strip('/').replace('/', '-')
    path = cloud.cache / 'locks' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.MinicloudError(
                'another minicloud command works on this cloud',
                advice='wait until it has ended',
            ) from None
        yield


def _enter_venv(
    cloud: settings.Cloud, argv: Sequence[str], options: argparse.Namespace
) -> None:
    """Go on under the venv's interpreter, unless this is it.

    `up` installs first what is missing.

    :raises MinicloudError: when there is no venv yet.
    """
    if pathlib.Path(sys.prefix) == cloud.venv:
        return
    if options.verb == 'up' and not options.no_install:
        install.everything(cloud, options.editable)
    if not cloud.python.is_file():
        raise errors.MinicloudError(
            f'no virtual environment in {cloud.venv}',
            advice='run `minicloud install`',
        )
    script = settings.SOURCE / 'devstack' / 'minicloud'
    os.execv(cloud.python, [str(cloud.python), str(script), *argv])


def _run(cloud: settings.Cloud, options: argparse.Namespace) -> None:
    """Do what was asked."""
    if options.verb == 'install':
        install.everything(cloud, options.editable)
    elif options.verb == 'down':
        down.down(cloud, say)
    elif options.verb == 'clean':
        down.clean(cloud, say)
    elif options.verb == 'openrc':
        from mini import config

        print(config.openrc_path(cloud, options.user or 'admin'))
    elif options.verb == 'logs':
        access.follow(cloud, options.service, options.follow)
    elif options.verb == 'lan':
        access.lan(cloud, options.command)
    else:
        _run_in_venv(cloud, options)


def _run_in_venv(cloud: settings.Cloud, options: argparse.Namespace) -> None:
    """Do what needs the packages of the venv, so import late.

    :raises MinicloudError: also for what the clients of the APIs raise.
    """
    import xmlrpc.client

    from keystoneauth1 import exceptions as auth_exceptions
    from openstack import exceptions as sdk_exceptions

    try:
        _run_verb(cloud, options)
    except (
        auth_exceptions.ClientException,
        sdk_exceptions.SDKException,
        xmlrpc.client.Error,
        OSError,
    ) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise errors.MinicloudError(
            f'{type(error).__name__}: {error}',
            advice='`minicloud status` shows what is down, `minicloud up` '
            'starts it',
        ) from error


def _run_verb(cloud: settings.Cloud, options: argparse.Namespace) -> None:
    from mini import demo
    from mini import fakehost
    from mini import status
    from mini import tempest
    from mini import up

    if options.verb == 'up':
        up.up(cloud, say)
        say(status.summary(cloud))
    elif options.verb == 'status':
        status.show(cloud)
    elif options.verb == 'demo':
        demo.demo(cloud, say)
    elif options.verb == 'ssh':
        demo.ssh(cloud, options.server, options.command)
    elif options.verb == 'tempest':
        wish = tempest.Wish(options.regex, options.short, options.workers)
        tempest.run(cloud, wish, say)
    elif options.action == 'up':
        fakehost.up(cloud, say)
    else:
        fakehost.down(cloud, say)


def main(argv: Sequence[str]) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(argv)
    # Whatever proxy is set, the cloud's own addresses are not behind it.
    os.environ['NO_PROXY'] = os.environ['no_proxy'] = '127.0.0.1,localhost'
    try:
        cloud = settings.load(
            hosts=getattr(options, 'hosts', None),
            with_cinder=getattr(options, 'with_cinder', False),
            with_horizon=getattr(options, 'with_horizon', False),
        )
        if options.verb in IN_VENV:
            _enter_venv(cloud, argv, options)
        exclusive = options.verb in EXCLUSIVE
        with _lock(cloud) if exclusive else contextlib.nullcontext():
            _run(cloud, options)
    except errors.MinicloudError as error:
        print(error.report(), file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Who read our output has seen enough, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print('minicloud: interrupted', file=sys.stderr)
        return 130
    return 0
