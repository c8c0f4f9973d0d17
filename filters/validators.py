# SPDX-License-Identifier: Apache-2.0
"""What nova-api checks of extra specs of our namespace.

Loaded by the entry point group ``nova.api.extra_spec_validators``. From then
on a key of ``vcloud:`` that is not listed is refused, too.
"""

from nova.api.validation.extra_specs import base

from nova_vcloud.flavor import flavor_keys


def register() -> list[base.ExtraSpecValidator]:
    """Return a validator for each key."""
    return [base.ExtraSpecValidator(
        name=name, description=spec.description, value=_value(spec))
        for name, spec in flavor_keys.KEYS.items()]


def _value(spec: flavor_keys.Spec) -> dict[str, object]:
    """Return Nova's words for what a value may be."""
    found: dict[str, object] = {'type': spec.type}
    if spec.minimum is not None:
        found['min'] = spec.minimum
    if spec.maximum is not None:
        found['max'] = spec.maximum
    if spec.choices is not None:
        found['enum'] = list(spec.choices)
    if spec.pattern is not None:
        found['pattern'] = spec.pattern
    return found
