#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# devstack plugin: Nova with the LXD driver, on the bundled daemon or on the host's LXD.

# Save trace setting
_XTRACE_NOVA_LXD=$(set +o | grep xtrace)
set +o xtrace

NOVA_LXD_REPOSITORY=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/..")

# Programs of the environment that devstack installs Python packages into.
function nova_lxd_program {
    if [[ -x "${DEVSTACK_VENV:-}/bin/$1" ]]; then
        echo "$DEVSTACK_VENV/bin/$1"
    else
        command -v "$1"
    fi
}

function pre_install_nova_lxd {
    if [[ "$NOVA_LXD_BACKEND" == "bundled" ]]; then
        install_package liblxc1 liblxc-common lxcfs dnsmasq-base uidmap btrfs-progs
    fi
    install_package squashfs-tools xz-utils mmdebstrap busybox-static gcc libc6-dev ethtool
}

function install_nova_lxd {
    setup_develop "$NOVA_LXD_REPOSITORY"
}

# Requests to the daemon's socket go through sudo: the socket is root's.
function nova_lxd_api {
    local method=$1
    local path=$2
    local body=${3:-}
    sudo curl --silent --show-error --noproxy '*' --unix-socket "$NOVA_LXD_ENDPOINT" \
        --request "$method" ${body:+--data "$body"} "http://lxd$path"
}

function wait_for_nova_lxd {
    local attempt
    for attempt in $(seq 120); do
        if nova_lxd_api GET /internal/ready | grep -q '"status_code": *200'; then
            return 0
        fi
        sleep 0.5
    done
    die $LINENO "The container daemon did not get ready at $NOVA_LXD_ENDPOINT after $attempt tries"
}

function start_nova_lxd {
    sudo install -d -m 0711 "$NOVA_LXD_DIR"
    run_process nova-lxd \
        "$(command -v env) LXD_DIR=$NOVA_LXD_DIR $(nova_lxd_program nova-lxd) daemon --group $STACK_GROUP" \
        root root
}

function create_nova_lxd_pool {
    if nova_lxd_api GET "/1.0/storage-pools/$NOVA_LXD_POOL" | grep -q '"type": *"error"'; then
        nova_lxd_api POST /1.0/storage-pools \
            "{\"name\": \"$NOVA_LXD_POOL\", \"driver\": \"$NOVA_LXD_POOL_DRIVER\"}"
    fi
}

# $NOVA_CONF is what lib/nova copies to the configuration of nova-compute when it starts it.
function configure_nova_lxd {
    iniset "$NOVA_CONF" DEFAULT compute_driver lxd.LXDDriver
    iniset "$NOVA_CONF" lxd endpoint "$NOVA_LXD_ENDPOINT"
    iniset "$NOVA_CONF" lxd pool "$NOVA_LXD_POOL"
    iniset "$NOVA_CONF" serial_console enabled True
    iniset "$NOVA_CONF" vnc enabled False
    iniset "$NOVA_CONF" DEFAULT allow_resize_to_same_host True
}

function upload_nova_lxd_images {
    local name
    local path
    for name in $NOVA_LXD_IMAGES; do
        path=$(sudo "$NOVA_LXD_REPOSITORY/tools/images/build" "$name" \
            --artifact unified.tar.gz --seed none --cache "$DATA_DIR/nova-lxd-images")
        # Glance knows no tar format: the tarball goes as raw, and the driver looks inside.
        openstack --os-cloud devstack-admin image create "$name" --public \
            --container-format bare --disk-format raw --file "$path" \
            --property hypervisor_type=lxd --property os_type=linux
    done
}

function configure_tempest_nova_lxd {
    local image
    local feature
    image=$(openstack --os-cloud devstack-admin image show -f value -c id "${NOVA_LXD_IMAGES%% *}")
    iniset "$TEMPEST_CONFIG" compute image_ref "$image"
    iniset "$TEMPEST_CONFIG" compute image_ref_alt "$image"
    iniset "$TEMPEST_CONFIG" validation image_ssh_user "${NOVA_LXD_IMAGES%% *}"
    iniset "$TEMPEST_CONFIG" validation image_alt_ssh_user "${NOVA_LXD_IMAGES%% *}"
    for feature in vnc_console spice_console ide_bus attach_encrypted_volume live_migration \
            config_drive; do
        iniset "$TEMPEST_CONFIG" compute-feature-enabled $feature False
    done
    for feature in resize change_password serial_console personality \
            hostname_fqdn_sanitization; do
        iniset "$TEMPEST_CONFIG" compute-feature-enabled $feature True
    done
    # Of the two, only LXD itself intercepts system calls.
    if [[ "$NOVA_LXD_BACKEND" == "host" ]]; then
        iniset "$TEMPEST_CONFIG" lxd interceptors True
    fi
}

function stop_nova_lxd {
    if [[ "$NOVA_LXD_BACKEND" == "bundled" ]]; then
        nova_lxd_api PUT "/internal/shutdown?force=true" || true
        stop_process nova-lxd
    fi
}

function cleanup_nova_lxd {
    if [[ "$NOVA_LXD_BACKEND" == "bundled" ]]; then
        sudo find "$NOVA_LXD_DIR" -xdev -mindepth 1 -delete
    fi
}

if is_service_enabled n-cpu; then
    if [[ "$1" == "stack" && "$2" == "pre-install" ]]; then
        echo_summary "Installing what containers need"
        pre_install_nova_lxd
    elif [[ "$1" == "stack" && "$2" == "install" ]]; then
        echo_summary "Installing nova-lxd"
        install_nova_lxd
    elif [[ "$1" == "stack" && "$2" == "post-config" ]]; then
        echo_summary "Configuring nova-lxd"
        if [[ "$NOVA_LXD_BACKEND" == "bundled" ]]; then
            start_nova_lxd
        fi
        wait_for_nova_lxd
        create_nova_lxd_pool
        configure_nova_lxd
    elif [[ "$1" == "stack" && "$2" == "extra" ]]; then
        echo_summary "Uploading system-container images"
        upload_nova_lxd_images
    elif [[ "$1" == "stack" && "$2" == "test-config" ]]; then
        if is_service_enabled tempest; then
            configure_tempest_nova_lxd
        fi
    fi
    if [[ "$1" == "unstack" ]]; then
        stop_nova_lxd
    fi
    if [[ "$1" == "clean" ]]; then
        cleanup_nova_lxd
    fi
fi

# Restore xtrace
$_XTRACE_NOVA_LXD
