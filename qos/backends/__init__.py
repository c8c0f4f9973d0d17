# SPDX-License-Identifier: Apache-2.0
"""Where limits are held: each module knows one interface of the host."""
