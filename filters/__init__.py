# SPDX-License-Identifier: Apache-2.0
"""Scheduler filters, weighers and extra-spec validators."""

from __future__ import annotations

# From the repository's root the folder's bare name would load a second copy,
# whose classes are not those of the installed one.
if __name__ != 'nova_vcloud.filters':
    raise ImportError('import nova_vcloud.filters, not filters')


def all_filters() -> list[type]:
    """Return our filters, for ``[filter_scheduler] available_filters``."""
    # nova-api loads this package for the validators, and no filter.
    from nova_vcloud.filters import app_anti_affinity  # noqa: PLC0415
    from nova_vcloud.filters import ecu_filter  # noqa: PLC0415
    from nova_vcloud.filters import zone_filter  # noqa: PLC0415
    return [ecu_filter.EcuFilter, app_anti_affinity.AppAntiAffinityFilter,
            zone_filter.ZoneFilter]
