# SPDX-License-Identifier: Apache-2.0
"""A whole OpenStack cloud on one machine, without systemd or DevStack.

Modules that run before the virtual environment exists (cli, errors, install,
settings, processes, down and what they import) use the standard library only;
the others may use what devstack/requirements.txt installs.
"""
