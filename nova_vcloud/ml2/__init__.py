# SPDX-License-Identifier: Apache-2.0
"""Neutron ML2 mechanism driver; imports neutron-lib, never Neutron."""
