# SPDX-License-Identifier: Apache-2.0
"""Volumes of servers: from Cinder's connection to what a guest sees."""
