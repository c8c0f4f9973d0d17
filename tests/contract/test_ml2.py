# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of the mechanism driver inside Neutron's ML2 plug-in."""

import pathlib
import re
import subprocess
import sys

CASES = pathlib.Path(__file__).with_name('ml2_cases.py')


def test_mechanism_driver_in_neutron():
    wanted = len(re.findall('^    def test_', CASES.read_text(), re.M))
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(CASES)],
        cwd=CASES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    # Neutron's own cases run with its base class; ours must be among them.
    ran = int(re.search(r'^Ran (\d+) tests', done.stderr, re.M)[1])
    assert ran >= wanted
