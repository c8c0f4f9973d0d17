# SPDX-License-Identifier: Apache-2.0
"""Both ends of the protocol that moves a server between hosts."""
