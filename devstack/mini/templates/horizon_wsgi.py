# SPDX-License-Identifier: Apache-2.0
"""Horizon with its static files, for gunicorn; made by minicloud up."""

from django.contrib.staticfiles import handlers
from django.core import wsgi

# Not openstack_dashboard.wsgi, which names its own settings.
application = handlers.StaticFilesHandler(wsgi.get_wsgi_application())
