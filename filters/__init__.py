# SPDX-License-Identifier: Apache-2.0
"""Scheduler filters, weighers and extra-spec validators."""
