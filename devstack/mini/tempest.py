# SPDX-License-Identifier: Apache-2.0
"""Tempest, OpenStack's own integration tests, against the mini cloud.

It runs in the LAN of the servers, so that it can log into them.
"""

from collections.abc import Callable
import dataclasses
import os
import pathlib
import shutil
import time

from mini import config
from mini import errors
from mini import identity
from mini import install
from mini import network
from mini import relay
from mini import seed
from mini import services
from mini import settings
from mini import verdicts

HERE = pathlib.Path(__file__).resolve().parent
EXCLUDE_LIST = HERE / 'tempest-exclude.txt'
SHORT_LIST = HERE / 'tempest-short.txt'
REPORT = settings.SOURCE / 'build' / 'tempest'
# Each worker is an interpreter that waits most of the time.
WORKERS = 2
IMAGE = 'debian-12'
# Tempest wants a second one that can be logged into as well.
IMAGE_ALT = 'debian-12-alt'
FLAVOR, FLAVOR_ALT = 'c1.tiny', 'c1.small'
APIS = ('keystone', 'glance', 'placement', 'nova-api', 'neutron-api')
# Of Cinder's own tests those in which a server takes part.
EVERYTHING = (
    r'^tempest\.((serial_tests\.)?(api\.compute|scenario)\.'
    r'|api\.volume\..*attach)'
)


@dataclasses.dataclass(frozen=True)
class Wish:
    """Which tests to run.

    :param regex: of names; empty for all that this cloud is for.
    :param short: only those of the short list.
    """

    regex: str = ''
    short: bool = False
    workers: int = WORKERS


def _apis(cloud: settings.Cloud) -> tuple[str, ...]:
    """Return the services that tempest talks to."""
    return (*APIS, 'cinder-api') if cloud.with_cinder else APIS


def folder(cloud: settings.Cloud) -> pathlib.Path:
    """Return where tempest keeps its configuration and results."""
    return cloud.home / 'tempest'


def configuration(
    cloud: settings.Cloud, secret: dict[str, str], ids: dict[str, str]
) -> config.Rendered:
    """Return tempest's configuration.

    :param ids: of images, flavors and the network, by the template's names.
    """
    context = {
        **config.base_context(cloud, secret),
        'folder': str(folder(cloud)),
        'hosts': str(cloud.host_count),
        'network': seed.NETWORK,
        **ids,
    }
    text = config.render('tempest.conf', context)
    return config.Rendered(folder(cloud) / 'tempest.conf', text)


def command(cloud: settings.Cloud, wish: Wish) -> list[str]:
    """Return the command that runs the tests."""
    words = [
        str(cloud.tempest_venv / 'bin' / 'tempest'),
        'run',
        *('--config-file', str(folder(cloud) / 'tempest.conf')),
        *('--exclude-list', str(EXCLUDE_LIST)),
        *('--concurrency', str(wish.workers)),
    ]
    if wish.short:
        return [*words, '--include-list', str(SHORT_LIST)]
    return [*words, '--regex', wish.regex or EVERYTHING]


def _ids(cloud: settings.Cloud) -> dict[str, str]:
    """Return the ids that the configuration names."""
    api = identity.connect(cloud)

    def image(name: str) -> str:
        return str(api.image.find_image(name, ignore_missing=False).id)

    def flavor(name: str) -> str:
        return str(api.compute.find_flavor(name, ignore_missing=False).id)

    lan = api.network.find_network(seed.NETWORK, ignore_missing=False)
    return {
        'image': image(IMAGE),
        'image_alt': image(IMAGE_ALT),
        'flavor': flavor(FLAVOR),
        'flavor_alt': flavor(FLAVOR_ALT),
        'network_id': str(lan.id),
    }


def prepare(cloud: settings.Cloud) -> None:
    """Make what the tests need beside a cloud that is up."""
    print(f'tempest: {install.tempest(cloud)}', flush=True)
    seed.upload_image(cloud, IMAGE_ALT, cloud.images / f'{IMAGE}.tar')
    file = configuration(cloud, config.load_secrets(cloud), _ids(cloud))
    config.write_one(file)
    # Results of an earlier run would be counted with this one's.
    shutil.rmtree(folder(cloud) / '.stestr', ignore_errors=True)
    (folder(cloud) / 'tempest.log').unlink(missing_ok=True)


def _environment(cloud: settings.Cloud) -> dict[str, str]:
    """Return tempest's environment; its home is not the operator's."""
    return {
        **services.environment(cloud, 'tempest'),
        'HOME': str(folder(cloud)),
        'PATH': f'{cloud.tempest_venv}/bin:{services.SYSTEM_PATH}',
        'PYTHONUNBUFFERED': '1',
        'no_proxy': os.environ.get('no_proxy', relay.LOOPBACK),
    }


def run(
    cloud: settings.Cloud, wish: Wish, say: Callable[[str], None]
) -> None:
    """Run the tests; leave the report in build/tempest.

    :raises MinicloudError: when one failed, or none ran.
    """
    if cloud.lan_netns not in network.namespaces():
        raise errors.MinicloudError(
            f'there is no namespace {cloud.lan_netns}',
            advice='run `minicloud up`',
        )
    prepare(cloud)
    REPORT.mkdir(parents=True, exist_ok=True)
    log = REPORT / 'output.log'
    found: list[verdicts.Verdict] = []
    start = time.monotonic()
    with log.open('w') as stream:

        def tell(line: str) -> None:
            stream.write(f'{line}\n')
            stream.flush()
            verdict = verdicts.parse(line)
            if verdict is not None:
                found.append(verdict)
                say(line)

        status = relay.run(
            cloud.lan_netns,
            [cloud.port(name) for name in _apis(cloud)],
            command(cloud, wish),
            _environment(cloud),
            folder(cloud),
            tell,
        )
    text = verdicts.report(found, time.monotonic() - start)
    (REPORT / 'report.rst').write_text(text)
    say(text)
    if status or not found or verdicts.failures(found):
        raise errors.MinicloudError(
            'tempest failed' if found else 'tempest ran no test',
            log,
            f'{log} has the trace-back of each failure, '
            f'{folder(cloud)}/tempest.log the requests',
        )
