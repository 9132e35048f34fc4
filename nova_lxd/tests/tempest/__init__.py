# SPDX-License-Identifier: Apache-2.0
"""A plug-in for tempest: what a cloud with this driver offers beyond, or unlike, any other cloud.

Nothing but OpenStack's APIs and ssh into guests is used, so that it tests any cloud with the
driver: ``tempest run --regex nova_lxd``.
"""
