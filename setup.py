# SPDX-License-Identifier: Apache-2.0
"""The hook by which pbr reads setup.cfg; there is nothing else in here."""

import setuptools

# pbr's build backend alone leaves setup.cfg's [files] and [entry_points]
# unread (pbr 7.1.3), and says nothing: a wheel without its os-vif plug-in.
setuptools.setup(setup_requires=['pbr>=7.0.0'], pbr=True)
