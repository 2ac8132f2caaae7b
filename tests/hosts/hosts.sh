#!/bin/bash
# Machines made of namespaces, on a network of their own (10.77.0.x, known inside them alone):
#   hosts.sh lan | start NAME | kill NAME | cut NAME | mend NAME | wall NAME | open NAME | stall | flow |
#            as NAME COMMAND.. | root NAME COMMAND.. | down
# B: folder of the hosts; SITE: site-packages of the operator's machine. `op` is that machine, h1 to h3
# have an SSH server each.
set -eu
P=x77
declare -A IP=([op]=10.77.0.1 [h1]=10.77.0.10 [h2]=10.77.0.11 [h3]=10.77.0.12)
inner() { cat "$B/state/$1.pid"; }
into() { h=$1; shift; exec nsenter -t "$(inner "$h")" --mount --uts --ipc --net --pid -- "$@"; }
lan() {
  mkdir -p "$B"/{state,hosts,share,log,keys}
  truncate -s 8G "$B/share.img"; mkfs.ext4 -q -F "$B/share.img"; mount -o loop "$B/share.img" "$B/share"
  ssh-keygen -q -t ed25519 -N '' -C test -f "$B/keys/id"
  chown 1077:1077 "$B/share"
  ip netns add $P-lan; ip -n $P-lan link add br0 type bridge; ip -n $P-lan link set br0 up
  ip -n $P-lan link set lo up
  for h in op h1 h2 h3; do  # no default route, as in a closed network
    ip netns add $P-$h
    ip -n $P-lan link add v-$h type veth peer name eth0 netns $P-$h
    ip -n $P-lan link set v-$h master br0 up
    ip -n $P-$h link set lo up; ip -n $P-$h addr add ${IP[$h]}/24 dev eth0; ip -n $P-$h link set eth0 up
  done
}
start() {
  h=$1; mkdir -p "$B/hosts/$h"
  setsid ip netns exec $P-$h unshare --mount --uts --ipc --pid --fork --kill-child \
    bash "$(dirname "$0")/init.sh" $h ${IP[$h]} >>"$B/log/$h" 2>&1 </dev/null &
  outer=$!
  for _ in $(seq 100); do pid=$(pgrep -P $outer || true); [ -n "$pid" ] && break; sleep 0.1; done
  echo "$pid" >"$B/state/$h.pid"
  for _ in $(seq 300); do [ -e "$B/hosts/$h/up" ] && return; sleep 0.1; done
  echo "$h does not start" >&2; exit 1
}
case $1 in
  lan) lan;;
  start) rm -f "$B/hosts/$2/up"; start "$2";;
  kill) kill -KILL "$(inner "$2")"; rm -f "$B/state/$2.pid";;  # the power button
  cut) ip -n $P-lan link set v-"$2" down;;  # the cable
  mend) ip -n $P-lan link set v-"$2" up;;
  wall) wall() { ip netns exec $P-"$1" iptables "${@:2}"; }  # a firewall that lets SSH alone in, as many ship
        wall "$2" -A INPUT -i lo -j ACCEPT; wall "$2" -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
        wall "$2" -A INPUT -p tcp --dport 22 -j ACCEPT; wall "$2" -P INPUT DROP;;
  open) ip netns exec $P-"$2" iptables -P INPUT ACCEPT; ip netns exec $P-"$2" iptables -F;;
  stall) fsfreeze -f "$B/share";;  # whoever writes to the share waits, as for a server that is busy or gone
  flow) fsfreeze -u "$B/share";;
  root) h=$2; shift 2; into "$h" "$@";;
  as) h=$2; shift 2; into "$h" setpriv --reuid=1077 --regid=1077 --init-groups env -i HOME=/home/ray USER=ray \
        LOGNAME=ray SHELL=/bin/bash TERM=dumb LANG=C.UTF-8 PYTHONPATH=${PYTHONPATH_OF:-} \
        PATH=/home/ray/orchestrator/.venv/bin:/usr/local/bin:/usr/bin:/bin "$@";;
  down) fsfreeze -u "$B/share" 2>/dev/null || true
        for h in op h1 h2 h3; do [ ! -e "$B/state/$h.pid" ] || kill -KILL "$(inner $h)" || true; done; sleep 1
        for h in op h1 h2 h3 lan; do ip netns del $P-$h || true; done
        umount -l "$B/share"; rm -rf "$B/share.img" "$B"/hosts/*/home/orchestrator/.venv;;
esac
