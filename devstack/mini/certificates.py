# SPDX-License-Identifier: Apache-2.0
"""Certificates of the compute hosts, by which servers move by TLS."""

import pathlib
import subprocess

from mini import errors
from mini import settings

DAYS = '3650'
NEW_KEY = ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1',
           '-noenc')


def authority(folder: pathlib.Path) -> pathlib.Path:
    """Make one who signs; return its certificate, with a key beside it.

    :raises MinicloudError: with what openssl says
    """
    cert = folder / 'ca.pem'
    _request('/CN=hosts', cert, cert.with_suffix('.key'))
    return cert


def certificate(ca: pathlib.Path, folder: pathlib.Path,
                address: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Make a certificate for an address; return its file and its key's.

    :raises MinicloudError: with what openssl says
    """
    cert, key = folder / f'{address}.pem', folder / f'{address}.key'
    _request('/CN=host', cert, key,
             '-addext', f'subjectAltName=IP:{address}',
             '-addext', 'basicConstraints=critical,CA:FALSE',
             '-CA', str(ca), '-CAkey', str(ca.with_suffix('.key')))
    return cert, key


def folder(cloud: settings.Cloud) -> pathlib.Path:
    """Return where the certificates of all hosts are."""
    return cloud.etc / 'tls'


def prepare(cloud: settings.Cloud) -> str | None:
    """Make what is missing; a cloud keeps its certificates."""
    where = folder(cloud)
    where.mkdir(mode=0o700, exist_ok=True)
    ca = where / 'ca.pem'
    certs = {where / f'{host.address}.pem': host for host in cloud.hosts}
    if not ca.is_file():
        for cert in certs:
            cert.unlink(missing_ok=True)
        authority(where)
    missing = [host for cert, host in certs.items() if not cert.is_file()]
    for host in missing:
        certificate(ca, where, host.address)
    return None if missing else 'there already'


def _request(subject: str, cert: pathlib.Path, key: pathlib.Path,
             *words: str) -> None:
    """Make a key, and a certificate for it once that has worked."""
    new = cert.with_suffix('.new')
    done = subprocess.run(
        ['openssl', 'req', '-x509', *NEW_KEY, '-days', DAYS, '-subj', subject,
         '-out', new, '-keyout', key, *words],
        capture_output=True, text=True, check=False)
    if done.returncode:
        raise errors.MinicloudError(f'openssl: {done.stderr.strip()}')
    new.rename(cert)
