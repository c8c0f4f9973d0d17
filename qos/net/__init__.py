# SPDX-License-Identifier: Apache-2.0
"""Network limits by the kernel's queueing disciplines."""
