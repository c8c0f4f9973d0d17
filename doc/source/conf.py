# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration; built with -W, so a warning is an error."""

project = 'nova-vcloud'
author = 'nova-vcloud maintainers'
copyright = '2026, nova-vcloud maintainers'

extensions = [
    'oslo_config.sphinxext',
    'sphinx.ext.autodoc',
]
nitpicky = True
html_theme = 'alabaster'
html_theme_options = {
    'description': 'Docker containers as servers of an OpenStack cloud',
    'fixed_sidebar': True,
}
html_copy_source = False
