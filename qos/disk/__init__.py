# SPDX-License-Identifier: Apache-2.0
"""Root filesystems, their sizes, and devices."""
