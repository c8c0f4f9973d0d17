# SPDX-License-Identifier: Apache-2.0
"""Network namespaces and NICs that belong to the server, not to a process."""
