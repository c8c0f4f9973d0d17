# SPDX-License-Identifier: Apache-2.0
"""What holds for Debian 12's engine holds for newer ones."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get('MINICLOUD_CACHE',
                                    '/var/cache/nova-vcloud'))


@pytest.mark.slow
@pytest.mark.parametrize('suite', ['trixie'])
def test_addresses_and_disks_of_servers_on(suite):
    folder = CACHE / 'engines' / suite
    done = subprocess.run([HERE / 'fetch-engine', suite, folder],
                          check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'cannot fetch the engine of {suite}: {done.stderr}')
    version = subprocess.check_output(
        [folder / 'bin/dockerd', '--version'], text=True)
    assert int(version.split()[2].split('.')[0]) > 20
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
         HERE.parent / 'vif/test_containers.py',
         *(f'{HERE.parent}/driver/test_disks.py::{name}' for name in (
             'test_a_disk_grows_while_the_server_runs_and_stays_so',
             'test_what_says_names_is_of_the_root_disk_too'))],
        env={**os.environ, 'NOVA_VCLOUD_TEST_ENGINE': str(folder / 'bin')},
        check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
