# SPDX-License-Identifier: Apache-2.0
"""What a server is on its host: container, files, console, snapshots."""
