# SPDX-License-Identifier: Apache-2.0
"""What a server has written on its root disk, as files of the host."""
