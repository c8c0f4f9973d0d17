# SPDX-License-Identifier: Apache-2.0
"""Limits: what a guest may use, planned, enforced and read back."""
