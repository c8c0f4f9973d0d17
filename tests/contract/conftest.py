# SPDX-License-Identifier: Apache-2.0
"""Nova and Neutron as they run in production: native threads.

Both choose oslo.service's backend when they are imported; the first wins.
"""

from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)

from nova import objects  # noqa: E402

# Nova's objects exist only once they are registered.
objects.register_all()
