# SPDX-License-Identifier: Apache-2.0
"""What is in the wheel and the sdist that users install.

The folders filters, qos and virt_docker stand at the top of the tree and are
installed under nova_vcloud; pbr ships a forgotten package all the same and
only warns, so the list in setup.cfg is compared with the tree.
"""

import configparser
import pathlib
import shutil
import stat
import subprocess
import sys
import zipfile

from packaging.version import Version
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAPPED = ('filters', 'qos', 'virt_docker')

LOAD_ENTRY_POINTS = '''
import importlib.metadata, sys
[found] = importlib.metadata.distributions(
    name='nova-vcloud', path=[sys.argv[1]])
for point in found.entry_points:
    point.load()
    print(point.group, point.name)
'''


def run(*command, cwd, **kwargs):
    """Run a command; its output is in the failure when it fails."""
    done = subprocess.run(
        [str(word) for word in command], check=False, cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        **kwargs)
    assert done.returncode == 0, done.stdout
    return done.stdout


def tree_packages(root):
    """Return installed name -> folder for every package of a tree."""
    found = {}
    for top in ('nova_vcloud', *MAPPED):
        for init in sorted((root / top).rglob('__init__.py')):
            folder = init.parent.relative_to(root)
            name = '.'.join(folder.parts)
            found[name if top == 'nova_vcloud'
                  else f'nova_vcloud.{name}'] = folder
    return found


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A repository of its own with the files of this one and no tag."""
    copy = tmp_path_factory.mktemp('tree')
    listed = run('git', 'ls-files', '-co', '--exclude-standard', cwd=ROOT)
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    git = ('git', '-c', 'user.name=test', '-c', 'user.email=test@localhost')
    run(*git, 'init', '-q', cwd=copy)
    run(*git, 'add', '-A', cwd=copy)
    run(*git, 'commit', '-q', '-m', 'Copy', cwd=copy)
    return copy


def build_wheel(source, out):
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
        '--no-build-isolation', '--wheel-dir', out, source, cwd=out)
    [wheel] = out.glob('nova_vcloud-*.whl')
    return wheel


@pytest.fixture(scope='module')
def wheel(tree, tmp_path_factory):
    return build_wheel(tree, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def sdist(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp('sdist')
    run(sys.executable, '-m', 'build', '--sdist', '--no-isolation',
        '--outdir', out, tree, cwd=out)
    [archive] = out.glob('*.tar.gz')
    return archive


@pytest.fixture(scope='module')
def site(wheel, tmp_path_factory):
    """The wheel installed in a folder of its own."""
    folder = tmp_path_factory.mktemp('site')
    run(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps',
        '--target', folder, wheel, cwd=folder)
    return folder


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [path] = [name for name in archive.namelist()
                  if name.endswith('.dist-info/METADATA')]
        return archive.read(path).decode()


def test_setup_cfg_lists_the_packages_of_the_tree():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    listed = config['options']['packages'].split()
    assert sorted(listed) == sorted(tree_packages(ROOT))


def test_setup_cfg_maps_every_folder():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    pairs = dict(
        line.replace(' ', '').split('=')
        for line in config['options']['package_dir'].split('\n') if line)
    assert pairs == {f'nova_vcloud.{name}': name for name in MAPPED}


def test_wheel_has_every_module_under_its_installed_name(tree, wheel):
    expected = {
        f'{name.replace(".", "/")}/{path.name}'
        for name, folder in tree_packages(tree).items()
        for path in (tree / folder).glob('*.py')}
    shipped = {name for name in names(wheel) if name.endswith('.py')}
    assert shipped == expected


def test_wheel_has_no_other_top_level_name(wheel):
    tops = {name.split('/')[0] for name in names(wheel)}
    version = wheel.name.split('-')[1]
    assert tops <= {
        'nova_vcloud', f'nova_vcloud-{version}.dist-info',
        f'nova_vcloud-{version}.data'}


def test_wheel_is_marked_as_typed(wheel):
    assert 'nova_vcloud/py.typed' in names(wheel)


def test_wheel_carries_the_licence(wheel):
    [path] = [name for name in names(wheel) if name.endswith('/LICENSE')]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(path) == (ROOT / 'LICENSE').read_bytes()


def test_wheel_requires_what_requirements_txt_says(wheel):
    wanted = {line for line in (ROOT / 'requirements.txt').read_text().split()
              if not line.startswith('#')}
    required = {line.split(': ')[1].replace(' ', '')
                for line in metadata(wheel).splitlines()
                if line.startswith('Requires-Dist: ')}
    assert required == wanted


def test_version_without_a_tag_is_a_version(wheel):
    [line] = [line for line in metadata(wheel).splitlines()
              if line.startswith('Version: ')]
    Version(line.removeprefix('Version: '))


def test_scripts_of_the_wheel_are_executable(wheel):
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    paths = config['files']['scripts'].split()
    for path in paths:
        assert (ROOT / path).stat().st_mode & stat.S_IXUSR, path
    expected = {pathlib.PurePath(path).name for path in paths}
    with zipfile.ZipFile(wheel) as archive:
        scripts = [info for info in archive.infolist()
                   if '.data/scripts/' in info.filename]
        assert {info.filename.split('/')[-1] for info in scripts} == expected
        for info in scripts:
            assert (info.external_attr >> 16) & stat.S_IXUSR, info.filename
            assert archive.read(info).startswith(b'#!'), info.filename


def test_entry_points_of_the_wheel_load(site):
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    expected = [
        f'{group} {line.split("=")[0].strip()}'
        for group, lines in config['entry_points'].items()
        for line in lines.strip().splitlines()]
    loaded = run(sys.executable, '-W', 'ignore', '-c', LOAD_ENTRY_POINTS,
                 site, cwd=site, env={'PYTHONPATH': str(site)})
    assert sorted(loaded.splitlines()) == sorted(expected)


def test_wheel_is_imported_by_its_long_names(site):
    printed = run(
        sys.executable, '-c',
        'import nova_vcloud.filters, nova_vcloud.qos, nova_vcloud.virt_docker'
        ' as driver; print(driver.__file__)',
        cwd=site, env={'PYTHONPATH': str(site)})
    assert printed.strip().startswith(str(site))


@pytest.mark.parametrize('name', MAPPED)
def test_bare_folder_name_cannot_be_imported(name):
    """A second copy under another name would have other classes."""
    done = subprocess.run(
        [sys.executable, '-c', f'import {name}'], cwd=ROOT, text=True,
        capture_output=True, check=False, env={})
    assert f'import nova_vcloud.{name}, not {name}' in done.stderr


def test_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    again = build_wheel(sdist, tmp_path)
    assert again.name == wheel.name

    def contents(path):
        # dist-info differs: an sdist has AUTHORS and ChangeLog in it.
        return sorted(name for name in names(path)
                      if '.dist-info/' not in name)
    assert contents(again) == contents(wheel)
