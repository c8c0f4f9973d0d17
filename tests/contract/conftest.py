# SPDX-License-Identifier: Apache-2.0
"""Nova's objects exist only once they are registered."""

from nova import objects

objects.register_all()
