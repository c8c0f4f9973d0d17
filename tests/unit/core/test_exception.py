# SPDX-License-Identifier: Apache-2.0
"""Errors are one line of a log, whatever a tenant has put into them."""

import pytest

from nova_vcloud import exception

FORGED = 'x86\n2026-01-01 00:00:00 1 CRITICAL nova [-] forged'


@pytest.mark.parametrize(('text', 'line'), [
    ('as it is: ü "quoted" \\', 'as it is: ü "quoted" \\'),
    (FORGED, FORGED.replace('\n', '\\n')), ('a\r\x1b[2Jb', 'a\\r\\x1b[2Jb'),
    ('a\u2028b\x85c', 'a\\u2028b\\x85c'), ('\0', '\\x00'),
    ('\ud800', '\\ud800')])
def test_an_error_is_one_line(text, line):
    assert str(exception.EngineError(text)) == line
    assert str(exception.InvalidRequest(text)) == line
    assert line.isprintable()


def test_an_error_without_words_is_fine():
    assert str(exception.EngineError()) == ''
