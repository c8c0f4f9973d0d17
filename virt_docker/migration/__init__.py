# SPDX-License-Identifier: Apache-2.0
"""Servers that change hosts, and the end of moves that were cut off."""
