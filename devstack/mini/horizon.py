# SPDX-License-Identifier: Apache-2.0
"""The files that Horizon of the mini cloud shows to browsers."""

import hashlib
import shutil
import subprocess

from mini import config
from mini import errors
from mini import services
from mini import settings


def static_files(cloud: settings.Cloud) -> str:
    """Collect and compress scripts and styles, unless they are there.

    They are kept with the environment: they do not depend on the cloud.

    :raises MinicloudError: with the log.
    """
    (cloud.data / 'horizon').mkdir(mode=0o700, exist_ok=True)  # of sessions
    place, stamp = config.horizon_static(cloud), cloud.horizon_venv / '.static'
    template = config.TEMPLATES / 'horizon_settings.py'
    packages = cloud.horizon_venv / '.requirements-horizon'
    if not packages.is_file():
        raise errors.MinicloudError(
            f'Horizon is not in {cloud.horizon_venv}',
            advice='run `minicloud install --with-horizon`',
        )
    now = hashlib.sha256(
        template.read_bytes() + packages.read_bytes()
    ).hexdigest()
    if stamp.is_file() and stamp.read_text() == now:
        return 'up to date'
    shutil.rmtree(place, ignore_errors=True)
    log = services.log_path(cloud, 'horizon-static')
    for arguments in (('collectstatic', '--noinput'), ('compress', '--force')):
        with log.open('a') as stream:
            done = subprocess.run(
                [f'{cloud.horizon_venv}/bin/django-admin', *arguments],
                env={
                    **services.environment(cloud, 'step'),
                    **services.horizon_environment(cloud),
                },
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise errors.MinicloudError(
                f'django-admin {arguments[0]} failed', log
            )
    stamp.write_text(now)
    return 'made'
