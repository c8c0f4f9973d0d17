# SPDX-License-Identifier: Apache-2.0
"""Images on the engine: loaded, kept, and removed."""
