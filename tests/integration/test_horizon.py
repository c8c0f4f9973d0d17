# SPDX-License-Identifier: Apache-2.0
"""What users of the dashboard see of containers, in a real browser."""

import json
import os
import pathlib
import subprocess

from desk import Desk
from desk import until
import pytest

from mini import config

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = 'Secret 7'


@pytest.mark.matrix('console.serial.interactive')
def test_the_console_tab_is_a_terminal_of_the_server(desk: Desk):
    cloud = desk.cloud
    server = desk.boot('seen', image='debian-12', flavor='c1.small')
    desk.compute.change_server_password(server, PASSWORD)
    until(lambda: desk.get(server).task_state is None, 30, 'it is set')
    picture = ROOT / 'build' / 'console.png'
    picture.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        [cloud.horizon_venv / 'bin/python',
         ROOT / 'tests/fixtures/browser.py'],
        input=json.dumps({
            'url': cloud.url('horizon'), 'user': 'admin',
            'password': config.load_secrets(cloud)['admin'],
            'server': server.id, 'picture': str(picture),
            'dialogue': [
                ('\r', 'login:'), ('root\r', 'Password:'),
                (f'{PASSWORD}\r', '#'),
                ('echo $((6*7)) on $(hostname)\r', '42 on seen')]}),
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, 'PYTHONPATH': ''})
    assert done.returncode == 0, done.stderr
    assert '42 on seen' in done.stdout
    assert '42 on seen' in desk.console(server)
