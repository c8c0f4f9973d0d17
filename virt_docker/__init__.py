# SPDX-License-Identifier: Apache-2.0
"""Nova compute driver whose servers are Docker containers."""

# From the repository's root the folder's bare name would load a second copy,
# whose classes are not those of the installed one.
if __name__ != 'nova_vcloud.virt_docker':
    raise ImportError('import nova_vcloud.virt_docker, not virt_docker')
