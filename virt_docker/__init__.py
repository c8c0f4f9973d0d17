# SPDX-License-Identifier: Apache-2.0
"""Nova compute driver whose servers are Docker containers."""
