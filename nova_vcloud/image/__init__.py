# SPDX-License-Identifier: Apache-2.0
"""Images as files, and registries. None of it imports Nova."""
