#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs as a unit inside a booted container (packages_test.py makes it): the packages live with a real systemd. Writes
# what it does to /out/log, and "passed" or "failed: ..." to /out/verdict.
exec >/out/log 2>&1
set -x
trap 'echo "failed: line $LINENO: $BASH_COMMAND" >/out/verdict; journalctl -u usherd --no-pager | tail -60' ERR
set -eE

wait_for() { # SECONDS COMMAND...: until it succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}
pid() { systemctl show -p MainPID --value usherd; }
said() { journalctl -u usherd --no-pager -o cat | grep -q -- "$1"; }
other_pid() { [ "$(pid)" != "$1" ] && [ "$(pid)" != 0 ] && systemctl -q is-active usherd; }

# A link to run on, and a peer that answers.
ip link set lo up
ip netns add peer
ip link add u0 type veth peer name u1 netns peer
ip addr add 10.66.0.1/24 dev u0
ip link set u0 up
ip -n peer addr add 10.66.0.2/24 dev u1
ip -n peer link set u1 up
ip netns exec peer /build/bin/kernel-echo 7 120 >/dev/null &

# A sanitized build looks for leaks by ptrace when it ends, which its service's seccomp list forbids.
mkdir -p /etc/systemd/system/usherd.service.d
printf '[Service]\nEnvironment=ASAN_OPTIONS=detect_leaks=0\n' >/etc/systemd/system/usherd.service.d/sanitized.conf

# Install: enabled, started, ready, serving.
dpkg -i /build/packages/*.deb
systemctl is-enabled usherd.service usherd-session.socket usherd-control.socket
systemctl is-active usherd.service usherd-session.socket usherd-control.socket
usherctl status
wait_for 10 sh -c 'usherctl ports | grep -q "^u0 "'
/build/bin/udp-ping --count 20 10.66.0.2:7 | grep "carried by usherd"

# The restrictions are on, and it works all the same.
grep "^Seccomp:.*2" "/proc/$(pid)/status"
grep "^NoNewPrivs:.*1" "/proc/$(pid)/status"
systemctl show -p Result,NRestarts usherd

# The log is structured, and explained.
journalctl --no-pager USHER_EVENT=ready -o json | grep -q '"MESSAGE_ID"'
journalctl --no-pager -x USHER_EVENT=ready | grep -q "programs can attach at the socket"

# A reload changes what it can and ends ready.
sed -i '$a log: {level: debug}' /etc/usher/usherd.yaml
systemctl reload usherd
wait_for 10 said "changed: log.level"
wait_for 10 systemctl -q is-active usherd

# A crash: systemd starts it again, and it takes over what lies in the fd store.
before=$(pid)
kill -KILL "$before"
wait_for 20 other_pid "$before"
said "were taken over"
/build/bin/udp-ping --count 20 10.66.0.2:7 | grep "carried by usherd"

# A daemon that hangs is ended by the watchdog, and comes back.
printf '[Service]\nWatchdogSec=2s\n' >/etc/systemd/system/usherd.service.d/test.conf
systemctl daemon-reload
systemctl restart usherd
before=$(pid)
kill -STOP "$before"
wait_for 30 other_pid "$before"
said "Watchdog timeout"

# An upgrade has the new program take over, in the same process.
before=$(pid)
dpkg -i --force-confold /build/packages/*.deb
wait_for 20 said "took over from usherd"
[ "$(pid)" = "$before" ]
usherctl status

# A purge leaves nothing.
dpkg --purge usher
if systemctl -q is-active usherd.service || systemctl -q is-active usherd-session.socket; then false; fi
[ ! -e /run/usher ] && [ ! -e /var/lib/usher ] && [ ! -e /usr/sbin/usherd ]
[ -z "$(find /etc/systemd/system -name 'usherd*' ! -path '*/usherd.service.d*')" ]
tc filter show dev u0 ingress | { ! grep -q .; }
echo passed >/out/verdict
