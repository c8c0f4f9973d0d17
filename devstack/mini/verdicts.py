# SPDX-License-Identifier: Apache-2.0
"""What became of each test of a tempest run, read from what it prints."""

from collections.abc import Iterable
import dataclasses
import re

PASSED, FAILED, SKIPPED = 'ok', 'FAILED', 'SKIPPED'
# A line of subunit-trace: worker, test, seconds, verdict, reason.
LINE = re.compile(
    r'^\{\d+\} (?P<test>.+?) (?:\[(?P<seconds>[\d.]+)s\] )?'
    r'\.\.\. (?P<status>ok|FAILED|SKIPPED)(?:: (?P<reason>.*))?$'
)
WHOLE_CLASS = re.compile(r'^(?:setUpClass|tearDownClass) \((.+)\)$')


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one test ended; a class that is skipped whole is one entry."""

    test: str
    status: str
    seconds: float = 0.0
    reason: str = ''


def parse(line: str) -> Verdict | None:
    """Return the verdict that a line of output tells, if it tells one."""
    found = LINE.match(line)
    if found is None:
        return None
    whole = WHOLE_CLASS.match(found['test'])
    # Some reasons go on with what was found, ids and all.
    reason = (found['reason'] or '').partition(': [')[0]
    return Verdict(
        # Tags follow the name: [id-...,smoke]
        test=whole[1] if whole else found['test'].partition('[')[0],
        status=found['status'],
        seconds=float(found['seconds'] or 0),
        reason=reason,
    )


def failures(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return those that failed."""
    return [one for one in verdicts if one.status == FAILED]


def skips(verdicts: Iterable[Verdict]) -> dict[str, list[str]]:
    """Return the skipped tests by the reason that was given."""
    found: dict[str, list[str]] = {}
    for one in verdicts:
        if one.status == SKIPPED:
            found.setdefault(one.reason or 'no reason', []).append(one.test)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _shortened(test: str) -> str:
    """Return a test's name without what all of them begin with."""
    return test.removeprefix('tempest.').removeprefix('api.compute.')


def report(verdicts: list[Verdict], seconds: float) -> str:
    """Return the figures, the failures and a table of skips, as text."""
    count = {
        status: sum(1 for one in verdicts if one.status == status)
        for status in (PASSED, FAILED, SKIPPED)
    }
    figures = ', '.join(
        f'{number} {word}'
        for number, word in zip(
            count.values(), ('passed', 'failed', 'skipped'), strict=True
        )
    )
    lines = [f'{figures} in {seconds / 60:.1f} min', '']
    lines += [f'* FAILED {one.test}' for one in failures(verdicts)]
    for reason, tests in skips(verdicts).items():
        lines += ['', f'{len(tests)} skipped: {reason}', '']
        lines += [f'* {_shortened(test)}' for test in sorted(tests)]
    return '\n'.join(lines) + '\n'
