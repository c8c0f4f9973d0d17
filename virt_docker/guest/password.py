# SPDX-License-Identifier: Apache-2.0
"""Passwords of users of a running server, set by its own ``chpasswd``."""

from __future__ import annotations

from nova import exception as nova_exception
from nova import objects

from nova_vcloud.engine import Engine
from nova_vcloud.image import image_properties

USER = 'root'
NOT_THERE = (126, 127)  # exit codes: no such program, in the words of shells


def set_admin(engine: Engine, name: str, instance: objects.Instance,
              password: str) -> None:
    """Set the password of a server's administrator.

    He is ``root``, or whom the image property ``os_admin_user`` names.

    :param name: of the container
    :raises SetAdminPasswdNotSupported: the server has no program for it
    :raises InstancePasswordSetFailed: with the program's words
    """
    user = instance.image_meta.properties.get('os_admin_user') or USER
    if not image_properties.USER.fullmatch(user) or '\n' in password:
        raise nova_exception.InstancePasswordSetFailed(
            instance=instance.uuid,
            reason='a user name or a password cannot have such characters')
    code, said = engine.run(name, ['chpasswd'],
                            f'{user}:{password}\n'.encode())
    if code in NOT_THERE:
        raise nova_exception.SetAdminPasswdNotSupported
    if code:
        raise nova_exception.InstancePasswordSetFailed(
            instance=instance.uuid,
            reason=said.decode(errors='replace').strip()[-200:])
