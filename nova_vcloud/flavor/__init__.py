# SPDX-License-Identifier: Apache-2.0
"""What flavors and images ask for, read and checked."""
