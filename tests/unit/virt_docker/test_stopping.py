# SPDX-License-Identifier: Apache-2.0
"""How long a server may take to end."""

import pytest

from nova_vcloud.virt_docker.guest import stopping


@pytest.mark.parametrize(('default', 'maximum', 'said', 'seconds'), [
    (60, 300, 0, 0), (60, 300, 5, 5), (60, 300, 300, 300),
    (60, 300, 301, 300), (60, 300, 999_999_999, 300), (60, 300, -1, 60),
    (60, 300, -5, 60),
    # The operator's own number is kept, whichever it is.
    (900, 300, 900, 900), (900, 300, 901, 900), (0, 0, 60, 0),
    (0, 300, -5, 0)])
def test_a_time_is_kept_within_bounds(default, maximum, said, seconds):
    assert stopping.Stops(None, default, maximum).bounded(said) == seconds
