# SPDX-License-Identifier: Apache-2.0
"""Certificates of the hosts, as openssl reads them."""

import subprocess

import pytest

from mini import certificates
from mini import errors


def refused(cloud, host, address):
    """Return what openssl has against a host at an address, if anything."""
    folder = certificates.folder(cloud)
    return subprocess.run(
        ['openssl', 'verify', '-CAfile', folder / 'ca.pem', '-verify_ip',
         address, folder / f'{host.address}.pem'],
        capture_output=True, text=True, check=False).stderr


def content(cloud):
    return {path.name: path.read_bytes()
            for path in certificates.folder(cloud).iterdir()}


@pytest.fixture
def made(cloud):
    cloud.etc.mkdir(parents=True)
    assert certificates.prepare(cloud) is None
    return cloud


def test_a_certificate_is_good_for_one_address(made):
    one, two = made.hosts
    assert refused(made, one, one.address) == ''
    assert 'address mismatch' in refused(made, one, two.address)


def test_only_root_reads_a_key(made):
    keys = [p for p in certificates.folder(made).iterdir()
            if p.suffix == '.key']
    assert len(keys) == 3
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_they_stay(made):
    before = content(made)
    assert certificates.prepare(made) == 'there already'
    assert content(made) == before


def test_what_is_missing_is_made(made):
    two = made.hosts[1]
    before = content(made)
    certificates.folder(made).joinpath(f'{two.address}.pem').unlink()
    assert certificates.prepare(made) is None
    after = content(made)
    assert {name for name in after if after[name] != before[name]} == {
        f'{two.address}.pem', f'{two.address}.key'}
    assert refused(made, two, two.address) == ''


def test_another_authority_signs_all_anew(made):
    certificates.folder(made).joinpath('ca.pem').unlink()
    assert certificates.prepare(made) is None
    assert [refused(made, h, h.address) for h in made.hosts] == ['', '']


def test_what_openssl_does_not_make_is_not_there(made, monkeypatch):
    certificates.folder(made).joinpath('ca.pem').unlink()
    monkeypatch.setattr(certificates, 'DAYS', 'never')
    with pytest.raises(errors.MinicloudError, match=r'openssl: .*never'):
        certificates.prepare(made)
    assert 'ca.pem' not in content(made)
