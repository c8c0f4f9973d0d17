# SPDX-License-Identifier: Apache-2.0
"""Errors of the shared core; the rooms above translate them to Nova's."""


def one_line(text: str) -> str:
    """Return a text as one line of a log.

    What tenants write into an image or a program's output must not look like
    lines of our own.
    """
    if text.isprintable():
        return text
    return ''.join(each if each.isprintable() else
                   each.encode('unicode_escape').decode('ascii')
                   for each in text)


class NovaVcloudException(Exception):
    """Base of every error raised by the core; ``str()`` is for operators."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class InvalidImageArchive(NovaVcloudException):
    """The bytes of an image are not what the engine can load."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ImageTooLarge(InvalidImageArchive):
    """An image would take more room than it may.

    :param limit: bytes
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f'it unpacks to more than {limit / (1 << 30):.1f} '
                         'GiB')


class TooManyFiles(ImageTooLarge):
    """An image would have more files than it may.

    :param limit: how many
    """

    def __init__(self, limit: int) -> None:
        InvalidImageArchive.__init__(
            self, f'it has more than {limit} files and folders')


class NoRoomForImage(ImageTooLarge):
    """An image, with those that come beside it, would fill the disk."""


class RegistryError(NovaVcloudException):
    """A registry does not give an image; says why, in a tenant's terms."""


class UploadFailed(NovaVcloudException):
    """The cloud did not take an image; the text is its own."""


class EngineError(NovaVcloudException):
    """The engine refused a request; the text is the engine's own."""


class EngineUnavailable(EngineError):
    """The engine did not answer: socket absent, closed, or timed out."""


class ContainerNotFound(EngineError):
    """The engine knows no such container."""


class ImageNotFound(EngineError):
    """The engine knows no such image."""


class EngineConflict(EngineError):
    """The container is not in a state that allows the request."""


class HostNotReady(NovaVcloudException):
    """The host lacks something the driver needs; says what to change."""


class InvalidLimit(NovaVcloudException):
    """A limit that cannot be: out of range, or at odds with another."""


class LimitNotEnforced(NovaVcloudException):
    """A valid limit that this host refused, or does not hold."""


class StateError(NovaVcloudException):
    """A file of our own is not what we wrote."""


class InvalidRequest(NovaVcloudException):
    """A flavor or an image asks for something that no host can give.

    Names the key, or what of the image.
    """


class TooManyServers(NovaVcloudException):
    """The host has as many servers of an application as it may have."""


class NoSuchRecord(NovaVcloudException):
    """No guest of that name has limits on this host."""


class NoCpusLeft(NovaVcloudException):
    """The CPUs that a guest would have to itself are not free."""


class CalibrationFailed(NovaVcloudException):
    """The host's speed could not be measured."""


class MoveFailed(NovaVcloudException):
    """The data of a server did not get from one host to the other."""


class DiskTooLarge(NovaVcloudException):
    """A server's disk cannot become an image; says why, to its tenant."""


class VolumeError(NovaVcloudException):
    """A volume that cannot be given to a server, or taken from it."""


class VolumeBusy(VolumeError):
    """A volume that cannot be taken away: it is in use."""
