#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# devstack/plugin.sh
# DevStack plugin of nova-vcloud: servers that are Docker containers.

# Dependencies:
#
# - ``functions``, ``functions-common``, ``inc/ini-config`` and ``inc/python``
# - ``DEST``, ``STACK_USER``, ``NOVA_CONF``, ``REGION_NAME`` must be defined
# - ``Q_PLUGIN_CONF_FILE`` when Neutron's server runs on this host
# - ``VIRT_DRIVER=docker`` in local.conf of each host whose nova-compute is ours

# DevStack calls ``source plugin.sh <mode> [phase]``:
#
# - stack pre-install: install_vcloud_engine
# - stack install: install_vcloud
# - stack post-config: configure_vcloud_{engine,bridge,nova,neutron}
# - stack extra: create_vcloud_network, upload_vcloud_image
# - unstack: remove_vcloud_servers
# - clean: cleanup_vcloud

# Save trace setting
_XTRACE_NOVA_VCLOUD=$(set +o | grep xtrace)
set +o xtrace

# Functions
# ---------

# is_vcloud_compute() - Whether nova-compute of this host is ours
function is_vcloud_compute {
    is_service_enabled n-cpu && [[ "$VIRT_DRIVER" == "docker" ]]
}

# install_vcloud_engine() - Install Docker and what the driver calls
function install_vcloud_engine {
    if ! is_ubuntu; then
        # is_ubuntu is true on Debian as well
        exit_distro_not_supported "the Docker engine of nova-vcloud"
    fi
    install_package docker.io jq busybox-static iproute2 nftables
    add_user_to_group "$STACK_USER" "${DOCKER_GROUP:-docker}"
}

# install_vcloud() - Install the project; its entry points register the
# compute driver (os_vif) and the mechanism driver with stock services
function install_vcloud {
    setup_develop "$NOVA_VCLOUD_DIR"
}

# configure_vcloud_engine() - Register the runtime with dockerd
#
# The file is kept as it was found, so that clean can put it back.
function configure_vcloud_engine {
    local runtime merged
    runtime=$(get_python_exec_prefix)/nova-vcloud-runtime
    if [[ ! -e $NOVA_VCLOUD_DAEMON_JSON.before-vcloud ]]; then
        sudo install -d "$(dirname "$NOVA_VCLOUD_DAEMON_JSON")"
        if [[ ! -s $NOVA_VCLOUD_DAEMON_JSON ]]; then
            echo '{}' | sudo tee "$NOVA_VCLOUD_DAEMON_JSON" >/dev/null
        fi
        sudo cp "$NOVA_VCLOUD_DAEMON_JSON" \
            "$NOVA_VCLOUD_DAEMON_JSON.before-vcloud"
    fi
    # What the operator has set stands; servers have no use for the engine's
    # own bridge and its iptables rules, which would drop bridged traffic.
    merged=$(sudo cat "$NOVA_VCLOUD_DAEMON_JSON.before-vcloud" |
        jq --arg path "$runtime" --arg links "$NOVA_VCLOUD_LINKS_PATH" \
            --arg remap "${NOVA_VCLOUD_USERNS_REMAP-default}" '
            {"live-restore": true, "iptables": false, "bridge": "none"}
            + (if $remap == "" then {} else {"userns-remap": $remap} end) + .
            | .runtimes["nova-vcloud"] =
                {path: $path, runtimeArgs: ["--links", $links]}')
    echo "$merged" | sudo tee "$NOVA_VCLOUD_DAEMON_JSON" >/dev/null
    # /run is empty after a reboot; nova-compute runs as $STACK_USER.
    echo "d $NOVA_VCLOUD_LINKS_PATH 0755 $STACK_USER $STACK_USER" |
        sudo tee "$NOVA_VCLOUD_TMPFILES" >/dev/null
    sudo install -d -o "$STACK_USER" "$NOVA_VCLOUD_LINKS_PATH"
    restart_service docker
}

# configure_vcloud_bridge() - Make the bridge of the servers, this host being
# their gateway
function configure_vcloud_bridge {
    local prefix=${NOVA_VCLOUD_RANGE#*/}
    if ! ip link show "$NOVA_VCLOUD_BRIDGE" >/dev/null 2>&1; then
        sudo ip link add "$NOVA_VCLOUD_BRIDGE" type bridge
    fi
    sudo ip address replace "$NOVA_VCLOUD_GATEWAY/$prefix" \
        dev "$NOVA_VCLOUD_BRIDGE"
    sudo ip link set "$NOVA_VCLOUD_BRIDGE" up
}

# configure_vcloud_nova() - Choose the driver
#
# DevStack makes nova-cpu.conf by copying nova.conf when it starts
# nova-compute, so what is set here arrives there.
function configure_vcloud_nova {
    iniset "$NOVA_CONF" DEFAULT compute_driver virt_docker.DockerDriver
    iniset "$NOVA_CONF" DEFAULT resume_guests_state_on_host_boot True
    iniset "$NOVA_CONF" docker url "$NOVA_VCLOUD_ENGINE_URL"
    iniset "$NOVA_CONF" docker runtime nova-vcloud
    iniset "$NOVA_CONF" docker runtime_links_path "$NOVA_VCLOUD_LINKS_PATH"
    if is_service_enabled n-sch; then
        configure_vcloud_scheduler
    fi
}

# configure_vcloud_scheduler() - Add filters and weighers to DevStack's own
function configure_vcloud_scheduler {
    local ours=ZoneFilter,EcuFilter,AppAntiAffinityFilter
    iniset_multiline "$NOVA_CONF" filter_scheduler available_filters \
        nova.scheduler.filters.all_filters nova_vcloud.filters.all_filters
    iniset "$NOVA_CONF" filter_scheduler enabled_filters \
        "${NOVA_FILTERS:+$NOVA_FILTERS,}$ours"
    iniset "$NOVA_CONF" filter_scheduler weight_classes \
        "nova.scheduler.weights.all_weighers,nova_vcloud.filters.weighers.all_weighers"
}

# configure_vcloud_neutron() - Tell Neutron's server the physical network and
# which bridge it is on which host; override-defaults added the driver
function configure_vcloud_neutron {
    local conf=/$Q_PLUGIN_CONF_FILE option
    option=$(iniget "$conf" ml2_type_flat flat_networks)
    if [[ ",$option," != *,$NOVA_VCLOUD_PHYSNET,* && "$option" != "*" ]]; then
        iniset "$conf" ml2_type_flat flat_networks \
            "${option:+$option,}$NOVA_VCLOUD_PHYSNET"
    fi
    iniset "$conf" ml2_vcloud bridge_mappings "$NOVA_VCLOUD_BRIDGE_MAPPINGS"
}

# vcloud_openstack() - The client, as DevStack's administrator
function vcloud_openstack {
    openstack --os-cloud=devstack-admin --os-region-name="$REGION_NAME" "$@"
}

# create_vcloud_network() - One flat network for servers; Neutron serves no
# DHCP on it, because the driver sets addresses itself
function create_vcloud_network {
    if vcloud_openstack network show "$NOVA_VCLOUD_NETWORK_NAME" \
        >/dev/null 2>&1; then
        return 0
    fi
    vcloud_openstack network create "$NOVA_VCLOUD_NETWORK_NAME" --share \
        --provider-network-type flat \
        --provider-physical-network "$NOVA_VCLOUD_PHYSNET"
    vcloud_openstack subnet create "$NOVA_VCLOUD_NETWORK_NAME-v4" --no-dhcp \
        --network "$NOVA_VCLOUD_NETWORK_NAME" \
        --subnet-range "$NOVA_VCLOUD_RANGE" --gateway "$NOVA_VCLOUD_GATEWAY"
}

# upload_vcloud_image() - Build ``tiny``, a busybox with an init that reaps,
# and put it into Glance
function upload_vcloud_image {
    local work applet
    if vcloud_openstack image show tiny >/dev/null 2>&1; then
        return 0
    fi
    work=$(mktemp -d)
    install -D -m 0755 "$(command -v busybox)" "$work/root/bin/busybox"
    for applet in $("$work/root/bin/busybox" --list); do
        # The list has busybox itself in it.
        if [[ $applet != busybox ]]; then
            ln -s busybox "$work/root/bin/$applet"
        fi
    done
    mkdir -p "$work/root/etc" "$work/root/tmp" "$work/root/root"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$work/root/etc/passwd"
    # An inittab of our own: the default one asks for terminals.
    echo '::ctrlaltdel:/bin/reboot' >"$work/root/etc/inittab"
    tar -C "$work/root" --owner=0 --group=0 -c . |
        sudo docker import --change 'CMD ["/bin/busybox", "init"]' - \
        nova-vcloud/tiny
    sudo docker save nova-vcloud/tiny | cat >"$work/tiny.tar"
    vcloud_openstack image create tiny --public --container-format docker \
        --disk-format raw --property hypervisor_type=docker \
        --file "$work/tiny.tar"
    sudo docker image rm nova-vcloud/tiny
    rm -rf "$work"
}

# remove_vcloud_servers() - Remove containers and namespaces that servers
# left behind; nothing of others is touched
function remove_vcloud_servers {
    local containers namespaces namespace
    containers=$(sudo docker ps -aq --filter label=org.openstack.nova.uuid)
    if [[ -n "$containers" ]]; then
        # shellcheck disable=SC2086
        sudo docker rm -f $containers
    fi
    namespaces=$(ip netns list | grep -oE "^nova-[0-9a-f-]{36}\>" || true)
    for namespace in $namespaces; do
        sudo ip netns delete "$namespace"
    done
}

# cleanup_vcloud() - Put the host back to what it was
function cleanup_vcloud {
    if [[ -e $NOVA_VCLOUD_DAEMON_JSON.before-vcloud ]]; then
        sudo mv "$NOVA_VCLOUD_DAEMON_JSON.before-vcloud" \
            "$NOVA_VCLOUD_DAEMON_JSON"
        restart_service docker
    fi
    sudo rm -rf "$NOVA_VCLOUD_TMPFILES" "$NOVA_VCLOUD_LINKS_PATH"
    if ip link show "$NOVA_VCLOUD_BRIDGE" >/dev/null 2>&1; then
        sudo ip link delete "$NOVA_VCLOUD_BRIDGE"
    fi
}

# Main dispatch
# -------------

if is_service_enabled nova-vcloud; then
    if [[ "$1" == "stack" && "$2" == "pre-install" ]]; then
        if is_vcloud_compute; then
            echo_summary "Installing the Docker engine for nova-vcloud"
            install_vcloud_engine
        fi

    elif [[ "$1" == "stack" && "$2" == "install" ]]; then
        echo_summary "Installing nova-vcloud"
        install_vcloud

    elif [[ "$1" == "stack" && "$2" == "post-config" ]]; then
        echo_summary "Configuring nova-vcloud"
        if is_vcloud_compute; then
            configure_vcloud_engine
            configure_vcloud_bridge
            configure_vcloud_nova
        fi
        if is_service_enabled q-svc neutron-api; then
            configure_vcloud_neutron
        fi

    elif [[ "$1" == "stack" && "$2" == "extra" ]]; then
        if is_service_enabled q-svc neutron-api; then
            echo_summary "Creating the network of nova-vcloud"
            create_vcloud_network
        fi
        if is_vcloud_compute && is_service_enabled g-api; then
            echo_summary "Uploading the image tiny"
            upload_vcloud_image
        fi
    fi

    if [[ "$1" == "unstack" ]]; then
        if is_vcloud_compute; then
            remove_vcloud_servers
        fi
    fi

    if [[ "$1" == "clean" ]]; then
        if is_vcloud_compute; then
            cleanup_vcloud
        fi
    fi
fi

# Restore xtrace
$_XTRACE_NOVA_VCLOUD
