# SPDX-License-Identifier: Apache-2.0
"""Keeps the cases, and Nova's tests with them, out of this process."""

collect_ignore = ['cases']
