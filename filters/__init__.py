# SPDX-License-Identifier: Apache-2.0
"""Scheduler filters, weighers and extra-spec validators."""

# From the repository's root the folder's bare name would load a second copy,
# whose classes are not those of the installed one.
if __name__ != 'nova_vcloud.filters':
    raise ImportError('import nova_vcloud.filters, not filters')
