# SPDX-License-Identifier: Apache-2.0
"""``nova-vcloud-receive``: takes servers' data from other hosts.

An ssh server runs it for the key of the other hosts; or it listens itself, for
hosts with a certificate. It takes only what nova-compute of this host has
admitted, and needs no privilege: nova-compute unpacks.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import sys

from nova_vcloud.transfer import receiver
from nova_vcloud.transfer import spool


def _parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog='nova-vcloud-receive', description=__doc__)
    words.add_argument('--spool', default='/var/lib/nova/vcloud-moves',
                       help='[vcloud_migration] spool_path')
    words.add_argument('--max-receivers', type=int, metavar='NUMBER',
                       default=spool.MAX_RECEIVERS,
                       help='processes that ssh may have started at a time '
                            'for this spool (%(default)s)')
    words.add_argument('--listen', metavar='ADDRESS:PORT',
                       help='take connections there, by TLS, in place of '
                            'standard input')
    words.add_argument('--cert', help='certificate of this host, PEM')
    words.add_argument('--key', help='its private key, PEM')
    words.add_argument('--ca', help='certificates of those who sign those of '
                                    'the other hosts, PEM')
    return words


def _serve_stdin(here: spool.Spool, most: int) -> str:
    """Serve the host that ssh has connected; return why it was refused.

    :param most: processes that do so at a time
    """
    with contextlib.suppress(OSError):  # more than one may have
        fcntl.fcntl(sys.stdin, fcntl.F_SETPIPE_SZ, receiver.CHUNK)
    source = receiver.Input(sys.stdin.fileno())
    connection = receiver.Connection(
        here, io.BufferedReader(source), sys.stdout,
        set_timeout=source.set_timeout)
    try:
        here.check()
        with here.receiving(most):
            return connection.serve()
    except spool.Refused as e:
        return connection.refuse(str(e))
    except OSError as e:
        return connection.refuse(f'{e.filename or "spool"}: {e.strerror}')


def main(arguments: list[str] | None = None) -> int:
    """Run; what an ssh client wanted to run does not matter."""
    words = _parser()
    options = words.parse_args(arguments)
    here = spool.Spool(options.spool)
    if not options.listen:
        return int(bool(_serve_stdin(here, options.max_receivers)))
    if None in (options.cert, options.key, options.ca):
        words.error('--listen needs --cert, --key and --ca')
    # ssh starts this for each connection, and has no use for that.
    from nova_vcloud.transfer import listener  # noqa: PLC0415
    try:
        # nova-compute makes it, and may start later.
        with contextlib.suppress(FileNotFoundError):
            here.check()
        listener.listen(here, options.listen, options.cert, options.key,
                        options.ca)
    except (OSError, ValueError, spool.Refused) as e:
        words.error(f'--listen {options.listen}: {e}')


if __name__ == '__main__':
    sys.exit(main())
