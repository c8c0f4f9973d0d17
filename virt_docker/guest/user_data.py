# SPDX-License-Identifier: Apache-2.0
"""What is done in a server that has just been made: user data, password.

An image with cloud-init does the first by itself. In any other a script
runs once, started by us and from then on a process of the server alone:
nova-compute waits for nothing and may end.
"""

from __future__ import annotations

from nova import exception as nova_exception
from nova import objects
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker.guest import file_injection
from nova_vcloud.virt_docker.guest import password

LOG = log.getLogger(__name__)

# Both the place of the user data and the mark that a script of it was
# started are cloud-init's own. The mark comes first: better not at all than
# twice. What runs has its words on the console, as at any machine's start.
# Lines that end as Windows has it are made plain, as cloud-init does when the
# first one ends so (util.dos2unix), in a file that it would make, too.
_RUN = r'''
command -v cloud-init >/dev/null 2>&1 && exit
cd "$1" 2>/dev/null || exit
mkdir -p sem && mkdir sem/config_scripts_user 2>/dev/null || exit
exec </dev/null >/dev/console 2>&1
IFS= read -r first <user-data.txt
case $first in
    '#!'*) ;;
    *)
        echo "nova-vcloud: user data is not run: it is no script (#!), and" \
            "there is no cloud-init"
        exit ;;
esac
script=user-data.txt
cr=$(printf '\r')
case $first in
    *"$cr")
        mkdir -p scripts && script=scripts/part-001 &&
            sed "s/$cr\$//" user-data.txt >$script ;;
esac
chmod 700 $script
./$script
echo "nova-vcloud: user data ended with $?"
'''


def begin(engine: Engine, name: str, instance: objects.Instance,
          secret: str | None = None) -> None:
    """Set the password and start the user data, if it never was.

    Nothing of it fails a server, as with libvirt: what came of it is seen at
    the console. One that does not run is given its user data when it starts.

    :param name: of the container
    :param secret: password that the server's owner was told; None: none
    """
    try:
        if secret:
            password.set_admin(engine, name, instance, secret)
    except (nova_exception.NovaException, exception.EngineError) as e:
        LOG.warning('The password of the new server is not set: %s', e,
                    instance=instance)
    if not file_injection.user_data(instance):
        return
    try:
        engine.begin(name, ['sh', '-c', _RUN, 'user-data',
                            file_injection.instance_folder(instance.uuid)])
    except exception.EngineConflict:
        LOG.debug('It does not run', instance=instance)
    except exception.EngineError as e:
        LOG.warning('The user data is not run: %s', e, instance=instance)
