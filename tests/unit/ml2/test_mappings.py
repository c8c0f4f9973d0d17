# SPDX-License-Identifier: Apache-2.0
"""What an operator may write in [ml2_vcloud] bridge_mappings."""

import pytest

from nova_vcloud.ml2 import mech_driver


def test_rows_become_bridges_by_host_and_network():
    rows = ['c1:phys1:br1', ' c1 : phys2 : br2 ', 'c2:phys1:br1']
    assert mech_driver.parse_mappings(rows) == {
        'c1': {'phys1': 'br1', 'phys2': 'br2'}, 'c2': {'phys1': 'br1'}}


@pytest.mark.parametrize(('rows', 'words'), [
    (['c1:phys1'], 'c1:phys1'),
    (['c1:phys1:br1:more'], 'host:physical_network:bridge'),
    ([':phys1:br1'], 'host:physical_network:bridge'),
    (['c1:phys1:'], 'host:physical_network:bridge'),
    (['c1:phys1:a-bridge-too-long'], '15'),
    (['c1:phys1:br1', 'c1:phys1:br2'], 'twice')])
def test_a_bad_row_is_named_with_its_option(rows, words):
    with pytest.raises(ValueError, match='bridge_mappings') as raised:
        mech_driver.parse_mappings(rows)
    assert words in str(raised.value)
