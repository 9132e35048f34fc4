#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# liblxc's post-stop hook: note in the file $1 whether the container stopped or rebooted.  For a
# reboot it fails on purpose: liblxc then stops instead, and the daemon starts the container afresh.
printf '%s' "$LXC_TARGET" >"$1"
[ "$LXC_TARGET" != reboot ]
