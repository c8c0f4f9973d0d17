# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, read from the source of every module.

The rules are those of doc/source/contributor/architecture.rst. Each has
planted breaches below, so that a rule which sees nothing is seen.
"""

import ast
from collections.abc import Iterator
import dataclasses
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

MAPPED = ('filters', 'qos', 'virt_docker')
MAX_LINES = 600
VAGUE_NAMES = {'utils', 'util', 'common', 'helper', 'helpers', 'misc'}

#: Top-level library -> the only modules that may import it.
ONLY_IN = {
    'docker': ('nova_vcloud.engine',),
    'libvirt': ('nova_vcloud.agent.sources',
                'nova_vcloud.qos.backends.libvirt'),
    'neutron_lib': ('nova_vcloud.ml2',),
    'os_vif': ('nova_vcloud.virt_docker',),
    'pyroute2': ('nova_vcloud.virt_docker.vif', 'nova_vcloud.netns'),
}

#: Room -> what of this project and of Nova it may import besides itself.
#: nova_vcloud stands for the shared core.
MAY_IMPORT = {
    'nova_vcloud': set(),
    'nova_vcloud.filters': {'nova_vcloud', 'nova'},
    'nova_vcloud.qos': {'nova_vcloud'},
    'nova_vcloud.virt_docker': {'nova_vcloud', 'nova_vcloud.qos', 'nova'},
    'nova_vcloud.agent': {'nova_vcloud', 'nova_vcloud.qos'},
    'nova_vcloud.cmd': {
        'nova_vcloud', 'nova_vcloud.agent', 'nova_vcloud.filters',
        'nova_vcloud.qos'},
    'nova_vcloud.ml2': {'nova_vcloud'},
    'nova_vcloud.osc': {'nova_vcloud'},
    'nova_vcloud.dashboard': {'nova_vcloud'},
}

#: Room of the compute driver -> rooms that it may import besides itself.
DRIVER_ROOMS = {
    'migration': {'volumes', 'guest', 'image', 'host', 'rootfs', 'vif'},
    'volumes': {'guest', 'image', 'host', 'rootfs', 'vif'},
    'guest': {'image', 'host', 'rootfs', 'vif'},
    'image': {'rootfs', 'vif'},
    'host': {'rootfs', 'vif'},
    'rootfs': set(),
    'vif': set(),
}
#: Modules beside the rooms that all of them may import. The others are what
#: Nova calls, and what puts the rooms together.
DRIVER_SHARED = {'crash_points', 'resources', 'server_labels'}

#: Never, in any room.
FORBIDDEN = {
    'eventlet': 'native threads only',
    'neutron': 'the mechanism driver stands on neutron-lib',
    'filters': 'a bare folder name',
    'qos': 'a bare folder name',
    'virt_docker': 'a bare folder name',
}

#: Where a configuration object may be had from oslo.config or Nova.
CONF_EDGES = (
    'nova_vcloud.cmd',
    'nova_vcloud.filters',
    'nova_vcloud.ml2.mech_driver',
    'nova_vcloud.virt_docker.driver',
)


@dataclasses.dataclass(frozen=True)
class Module:
    """One source file by the name it has when installed."""

    name: str
    source: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)


def installed_name(path: pathlib.Path) -> str:
    """Return the dotted name a file gets from setup.cfg's package_dir."""
    parts = list(path.with_suffix('').parts)
    if parts[0] in MAPPED:
        parts.insert(0, 'nova_vcloud')
    if parts[-1] == '__init__':
        parts.pop()
    return '.'.join(parts)


def project() -> list[Module]:
    return [
        Module(installed_name(path.relative_to(ROOT)), path.read_text())
        for top in ('nova_vcloud', *MAPPED)
        for path in sorted((ROOT / top).rglob('*.py'))
    ]


def inside(name: str, place: str) -> bool:
    return name == place or name.startswith(place + '.')


def room_of(name: str) -> str:
    """Return the innermost room; what is in no room is the shared core."""
    rooms = [room for room in MAY_IMPORT if inside(name, room)]
    return max(rooms, key=len, default='')


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Yield every imported dotted name, wherever it stands in the file."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.' * node.level + (node.module or '')
            yield from ((f'{base}.{alias.name}', node.lineno)
                        for alias in node.names)


def import_breaches(module: Module) -> Iterator[str]:
    room = room_of(module.name)
    for target, line in imports(module):
        top = target.split('.')[0]
        where = f'{module.name}:{line} imports {target}'
        if target.startswith('.'):
            yield f'{where}: relative'
        if top in FORBIDDEN:
            yield f'{where}: {FORBIDDEN[top]}'
        if top in ONLY_IN and not any(
                inside(module.name, place) for place in ONLY_IN[top]):
            yield f'{where}: only {", ".join(ONLY_IN[top])} may'
        if top in ('nova', 'nova_vcloud'):
            other = room_of(target) or top
            if other != room and other not in MAY_IMPORT[room]:
                yield f'{where}: {room} must not know {other}'


def driver_breaches(module: Module) -> Iterator[str]:
    """Find imports against the direction of the compute driver's rooms."""
    top = 'nova_vcloud.virt_docker.'
    room = module.name.removeprefix(top).split('.')[0]
    if not module.name.startswith(top) or room not in DRIVER_ROOMS:
        return
    allowed = DRIVER_ROOMS[room] | DRIVER_SHARED | {room}
    for target, line in imports(module):
        other = target.removeprefix(top).split('.')[0]
        if target.startswith(top) and other not in allowed:
            yield (f'{module.name}:{line} imports {target}: {room} must not '
                   f'know {other}')


def conf_breaches(module: Module) -> Iterator[str]:
    """Find global configuration taken below the edges.

    Option definitions (``from oslo_config import cfg``) are fine anywhere
    in conf/; the process-wide objects ``cfg.CONF`` and ``nova.conf.CONF``
    are for the edges, which pass values on.
    """
    if any(inside(module.name, edge) for edge in CONF_EDGES):
        return
    for node in ast.walk(module.tree):
        named = (
            (isinstance(node, ast.Attribute) and node.attr == 'CONF')
            or (isinstance(node, ast.Name) and node.id == 'CONF')
            or (isinstance(node, ast.alias) and node.name == 'CONF')
        )
        if named:
            yield f'{module.name}:{node.lineno} reads CONF below the edge'


def shape_breaches(module: Module) -> Iterator[str]:
    if ast.get_docstring(module.tree) is None:
        yield f'{module.name} has no docstring'
    if not module.source.startswith('# SPDX-License-Identifier: Apache-2.0\n'):
        yield f'{module.name} does not start with its licence line'
    lines = module.source.count('\n')
    if lines > MAX_LINES:
        yield f'{module.name} has {lines} lines, more than {MAX_LINES}'
    vague = VAGUE_NAMES.intersection(module.name.split('.'))
    if vague:
        yield f'{module.name} says nothing of what it is for'


def breaches(module: Module) -> list[str]:
    return [
        *import_breaches(module),
        *driver_breaches(module),
        *conf_breaches(module),
        *shape_breaches(module),
    ]


@pytest.mark.parametrize('module', project(), ids=lambda m: m.name)
def test_module_keeps_the_rules(module):
    assert breaches(module) == []


def top_imports(module: Module, names: set[str]) -> Iterator[str]:
    """Yield the project's modules that one needs before it is there."""
    for node in module.tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            whole = f'{node.module}.{alias.name}'
            yield from {whole, node.module or ''} & names


def circle(modules: list[Module]) -> list[str]:
    """Return modules that need one another; [] where none do."""
    names = {module.name for module in modules} - {'nova_vcloud'}
    try:
        graphlib.TopologicalSorter({
            module.name: set(top_imports(module, names))
            for module in modules}).prepare()
    except graphlib.CycleError as e:
        return list(e.args[1])
    return []


def test_each_module_can_be_the_first_that_is_imported():
    assert circle(project()) == []


def test_a_planted_circle_is_seen():
    assert circle([
        Module('nova_vcloud.one', 'from nova_vcloud import two'),
        Module('nova_vcloud.two', 'from nova_vcloud.one import name')])


def test_every_room_of_the_tree_has_its_rule():
    folders = {f'nova_vcloud.{name}' for name in MAPPED}
    folders.update(
        f'nova_vcloud.{path.parent.name}'
        for path in (ROOT / 'nova_vcloud').glob('*/__init__.py'))
    part_of_the_core = {'nova_vcloud.conf', 'nova_vcloud.flavor',
                        'nova_vcloud.image', 'nova_vcloud.transfer'}
    assert folders <= set(MAY_IMPORT) | part_of_the_core


def test_every_room_of_the_driver_has_its_rule():
    assert {path.parent.name for path in (
        ROOT / 'virt_docker').glob('*/__init__.py')} == set(DRIVER_ROOMS)


def planted(name: str, line: str) -> Module:
    return Module(name, '# SPDX-License-Identifier: Apache-2.0\n'
                        f'"""A planted module."""\n{line}\n')


@pytest.mark.parametrize(('name', 'line', 'reason'), [
    ('nova_vcloud.json_documents', 'import nova', 'must not know nova'),
    ('nova_vcloud.json_documents', 'from nova.virt import driver',
     'not know nova'),
    ('nova_vcloud.json_documents', 'from nova_vcloud import qos',
     'must not know nova_vcloud.qos'),
    ('nova_vcloud.json_documents',
     'from nova_vcloud.virt_docker import driver',
     'must not know nova_vcloud.virt_docker'),
    ('nova_vcloud.conf.opts', 'import nova_vcloud.filters.ecu',
     'must not know nova_vcloud.filters'),
    ('nova_vcloud.qos.plan', 'import nova.objects', 'must not know nova'),
    ('nova_vcloud.qos.plan', 'def f():\n    import nova', 'not know nova'),
    ('nova_vcloud.qos.plan', 'from nova_vcloud.virt_docker import spec',
     'must not know nova_vcloud.virt_docker'),
    ('nova_vcloud.filters.ecu', 'from nova_vcloud.qos import limits',
     'must not know nova_vcloud.qos'),
    ('nova_vcloud.virt_docker.guest.container_spec',
     'from nova_vcloud.filters import ecu',
     'must not know nova_vcloud.filters'),
    ('nova_vcloud.agent.service', 'from nova_vcloud.virt_docker import host',
     'must not know nova_vcloud.virt_docker'),
    ('nova_vcloud.virt_docker.guest.rescue',
     'from nova_vcloud.virt_docker.migration import resize',
     'guest must not know migration'),
    ('nova_vcloud.virt_docker.rootfs.overlay',
     'from nova_vcloud.virt_docker.guest.containers import Containers',
     'rootfs must not know guest'),
    ('nova_vcloud.virt_docker.migration.resize',
     'from nova_vcloud.virt_docker import factory', 'not know factory'),
    ('nova_vcloud.cmd.manage', 'import nova.conf', 'must not know nova'),
    ('nova_vcloud.ml2.mech_driver', 'from neutron.plugins import ml2',
     'stands on neutron-lib'),
    ('nova_vcloud.json_documents', 'import docker',
     'only nova_vcloud.engine may'),
    ('nova_vcloud.virt_docker.guest.containers', 'from docker import errors',
     'only nova_vcloud.engine may'),
    ('nova_vcloud.virt_docker.driver', 'import pyroute2',
     'only nova_vcloud.virt_docker.vif'),
    ('nova_vcloud.qos.backends.cgroup1', 'from pyroute2 import IPRoute',
     'only nova_vcloud.virt_docker.vif'),
    ('nova_vcloud.qos.plan', 'import libvirt', 'only nova_vcloud.agent'),
    ('nova_vcloud.virt_docker.driver', 'import eventlet', 'native threads'),
    ('nova_vcloud.virt_docker.driver', 'from eventlet import green',
     'native threads'),
    ('nova_vcloud.virt_docker.driver', 'import qos', 'a bare folder name'),
    ('nova_vcloud.virt_docker.driver', 'from filters import ecu',
     'a bare folder name'),
    ('nova_vcloud.qos.plan', 'from . import limits', 'relative'),
    ('nova_vcloud.qos.plan', 'from .limits import Limits', 'relative'),
    ('nova_vcloud.qos.plan', 'from oslo_config import cfg\nX = cfg.CONF',
     'reads CONF'),
    ('nova_vcloud.virt_docker.host.host', 'from nova.conf import CONF',
     'reads CONF'),
    ('nova_vcloud.virt_docker.host.host',
     'import nova.conf\nX = nova.conf.CONF', 'reads CONF'),
    ('nova_vcloud.qos.utils', '', 'says nothing'),
    ('nova_vcloud.common.units', '', 'says nothing'),
    ('nova_vcloud.json_documents', 'X = 1\n' * MAX_LINES, 'more than 600'),
])
def test_planted_breach_is_seen(name, line, reason):
    found = breaches(planted(name, line))
    assert any(reason in breach for breach in found), found


@pytest.mark.parametrize(('source', 'reason'), [
    ('# SPDX-License-Identifier: Apache-2.0\nX = 1\n', 'no docstring'),
    ('"""Doc."""\n', 'licence line'),
])
def test_planted_shape_is_seen(source, reason):
    found = breaches(Module('nova_vcloud.json_documents', source))
    assert any(reason in breach for breach in found), found


@pytest.mark.parametrize(('name', 'line'), [
    ('nova_vcloud.engine', 'import docker'),
    ('nova_vcloud.conf.docker', 'from oslo_config import cfg'),
    ('nova_vcloud.filters.ecu', 'from nova.scheduler import filters'),
    ('nova_vcloud.filters.ecu', 'import nova.conf\nX = nova.conf.CONF'),
    ('nova_vcloud.qos.plan', 'from nova_vcloud import units'),
    ('nova_vcloud.netns', 'from pyroute2 import IPRoute'),
    ('nova_vcloud.virt_docker.driver', 'from nova.virt import driver'),
    ('nova_vcloud.virt_docker.driver', 'from nova_vcloud.qos import plan'),
    ('nova_vcloud.virt_docker.vif.netns', 'from pyroute2 import NetNS'),
    ('nova_vcloud.agent.service', 'from nova_vcloud.qos import enforcer'),
])
def test_what_is_allowed_passes(name, line):
    assert breaches(planted(name, line)) == []
