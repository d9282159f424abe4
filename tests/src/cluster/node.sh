# The first process of a node: makes what the node sees of its own, then keeps its namespaces. The argument is the run's folder.
set -e
mkdir -p "$1/lib" "$1/log" "$1/sysctl"
mount -t tmpfs tmpfs /run
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
mount -t bpf bpf /sys/fs/bpf
# The kubelet wants values of its own in these, which are the whole machine's: it gets files instead.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    file="$1/sysctl/$(basename "$name")"
    cat "/proc/sys/$name" >"$file"
    mount --bind "$file" "/proc/sys/$name"
done
: >"$1/node-ready"
# It reaps what the runtime leaves behind, and takes everything with it when it ends.
trap exit TERM
sleep infinity &
wait
