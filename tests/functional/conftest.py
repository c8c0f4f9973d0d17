# SPDX-License-Identifier: Apache-2.0
"""A private fabric and engine, searched for leaks after each test."""

from private_host import dockerd
from private_host import lan
from private_host import links_path
from private_host import no_leaks
from private_host import server

__all__ = ['dockerd', 'lan', 'links_path', 'no_leaks', 'server']
