# SPDX-License-Identifier: Apache-2.0
"""Shared core of nova-vcloud; imports neither Nova nor the other rooms."""
