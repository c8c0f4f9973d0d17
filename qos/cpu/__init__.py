# SPDX-License-Identifier: Apache-2.0
"""CPUs of the host, and which server is pinned to which."""
