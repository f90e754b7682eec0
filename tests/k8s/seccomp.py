"""RuntimeDefault, as engines apply it to a container without capabilities: a list of what may be called, made of what this kernel's ABI
has less what the engines' documentation says that they refuse, so that a call nobody has heard of yet is refused, too. What containerd
and what CRI-O refuse are both in it: who serves under this serves under either. test_seccomp.py compares it with an engine's own file."""
import functools
import re
import subprocess

# Calls that need a capability which is not there, or that open more of the kernel than a container has use for.
REFUSED = set("""acct add_key bpf chroot clock_adjtime clock_settime create_module delete_module fanotify_init finit_module fsconfig fsmount
fsopen fspick futex_waitv get_kernel_syms get_mempolicy init_module io_pgetevents io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl
open_by_handle_at open_tree perf_event_open pivot_root process_madvise process_vm_readv process_vm_writev ptrace query_module quotactl
quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon _sysctl
sysfs umount2 unshare uselib userfaultfd ustat vhangup vmsplice""".split())
NEVER_MADE = {"afs_syscall", "getpmsg", "putpmsg", "security", "tuxcall", "vserver"}  # numbers without a function behind them
BY_ARGUMENT = {"clone", "clone3", "personality", "socket"}

EPERM, ENOSYS = 1, 38
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
AF_VSOCK = 40


@functools.lru_cache
def numbers():
    """{name: number} of this machine's system calls, as its C compiler knows them."""
    text = subprocess.run(["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"], capture_output=True, text=True,
                          check=True).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}


def allowed():
    return set(numbers()) - REFUSED - NEVER_MADE - BY_ARGUMENT


def rule(action, *names, errno=None, **argument):
    made = {"names": sorted(names), "action": action}
    if errno:
        made["errnoRet"] = errno
    if argument:
        made["args"] = [argument]
    return made


def profile():
    """linux.seccomp of a container's configuration."""
    allow = "SCMP_ACT_ALLOW"
    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
        rule(allow, *allowed()),
        rule(allow, "clone", index=0, value=NEW_NAMESPACES, valueTwo=0, op="SCMP_CMP_MASKED_EQ"),
        rule("SCMP_ACT_ERRNO", "clone3", errno=ENOSYS),  # its flags lie in memory; libc then takes clone
        rule(allow, "socket", index=0, value=AF_VSOCK, op="SCMP_CMP_NE"),
        *(rule(allow, "personality", index=0, value=value, op="SCMP_CMP_EQ") for value in PERSONALITIES)]}
