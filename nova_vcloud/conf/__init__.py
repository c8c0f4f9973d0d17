# SPDX-License-Identifier: Apache-2.0
"""Configuration: one oslo.config group a file, collected by opts.py."""
