# SPDX-License-Identifier: Apache-2.0
"""Limits: what a guest may use, planned, enforced and read back."""

# From the repository's root the folder's bare name would load a second copy,
# whose classes are not those of the installed one.
if __name__ != 'nova_vcloud.qos':
    raise ImportError('import nova_vcloud.qos, not qos')
