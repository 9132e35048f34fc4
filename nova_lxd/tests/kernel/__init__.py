# SPDX-License-Identifier: Apache-2.0
"""What only another kernel than most test hosts has; tools/kernel/run boots the machine."""
