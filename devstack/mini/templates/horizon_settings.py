# SPDX-License-Identifier: Apache-2.0
"""Horizon's settings in a mini cloud; made by minicloud up."""

from openstack_dashboard.settings import *  # noqa: F403

DEBUG = False
ALLOWED_HOSTS = ['127.0.0.1', 'localhost']
SECRET_KEY = '${secret_horizon}'
STATIC_ROOT = COMPRESS_ROOT = '${horizon_static}'
COMPRESS_ENABLED = COMPRESS_OFFLINE = True
SESSION_ENGINE = 'django.contrib.sessions.backends.file'
SESSION_FILE_PATH = '${data}/horizon'
CACHES = {'default': {
    'BACKEND': 'django.core.cache.backends.locmem.LocMemCache'}}
OPENSTACK_HOST = '127.0.0.1'
OPENSTACK_KEYSTONE_URL = '${url_keystone}/v3'
OPENSTACK_NEUTRON_NETWORK = {
    'enable_router': False, 'enable_quotas': False}
# The only kind of console a container has.
CONSOLE_TYPE = 'SERIAL'
# The tab is a frame with a page of the dashboard's own, which Django's default
# forbids.
X_FRAME_OPTIONS = 'SAMEORIGIN'
