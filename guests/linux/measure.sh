#!/bin/busybox sh
# What the instruction counter's guest does (`cargo xtask bench`): works its disk and its network card round after
# round, while a plugin of QEMU counts. Kernel arguments: axvm.work=reads,pings,waits (default: none), axvm.count=N and
# axvm.rounds=N for each of them.

/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
exec </dev/console >/dev/console 2>&1
dmesg -n 4

argument() { # argument NAME DEFAULT: a value from the kernel's command line
    for word in $(cat /proc/cmdline); do
        case "$word" in "$1"=*) echo "${word#*=}"; return ;; esac
    done
    echo "$2"
}
wait_for() { # wait_for SECONDS COMMAND...
    ticks=$(($1 * 5)); shift
    while [ "$ticks" -gt 0 ]; do "$@" && return 0; ticks=$((ticks - 1)); sleep 0.2; done
    return 1
}
disk() { for disk in /dev/nvme*n*; do [ -b "$disk" ] && return 0; done; return 1; }
card() { for card in /sys/class/net/*; do [ -e "$card/device/driver" ] && { card=${card##*/}; return 0; }; done; return 1; }
carrier() { [ "$(cat "/sys/class/net/$card/carrier" 2>/dev/null)" = 1 ]; }

# All work is one task's on one vCPU, the last; its interrupts come there too.
task=$((1 << ($(grep -c ^processor /proc/cpuinfo) - 1)))
reads() { wait_for 30 disk && taskset "$task" measure reads "$disk" "$count" "$rounds"; }
pings() {
    wait_for 30 card && ifconfig "$card" 10.0.2.15 netmask 255.255.255.0 up || return 1
    # So long that the carrier is there when it is looked at first: each further look is a process, which asks what the processor is.
    sleep 4
    wait_for 30 carrier || return 1
    for irq in $(ls "/sys/class/net/$card/device/msi_irqs"); do echo "$task" > "/proc/irq/$irq/smp_affinity"; done
    taskset "$task" measure pings 10.0.2.2 "$count" "$rounds"
}

count=$(argument axvm.count 500)
rounds=$(argument axvm.rounds 8)
work=$(argument axvm.work "")
[ -z "$work" ] || while read -r module; do insmod "$module"; done < /etc/axvm/modules
for one in $(echo "$work" | tr , ' '); do
    case "$one" in
    waits) echo "MEASURE waits"; sleep 3600 ;;
    reads | pings) if "$one"; then echo "MEASURE $one ok"; else echo "MEASURE $one FAILED"; fi ;;
    *) echo "MEASURE $one FAILED there is no such work" ;;
    esac
done
echo "MEASURE done"
sleep 0.5
poweroff -f
