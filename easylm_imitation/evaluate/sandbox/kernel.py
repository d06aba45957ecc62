"""The kernel's walls, through ctypes alone: namespaces, a root of one's own, no privileges, few system calls.

Stands on the standard library and nothing else: the sandbox's interpreter imports it without this package. The order in
a new process is `enter_namespaces`, a fork, then in the child `private_root`, `limit`, `drop_privileges`,
`filter_calls`; each wall is final, and the last one takes away the calls that built the others.
"""
import ctypes
import errno
import os
import platform
import resource
import struct

_libc = ctypes.CDLL(None, use_errno=True)

_NEWUSER = 0x10000000
_NAMESPACES = {"mount": 0x00020000, "cgroup": 0x02000000, "host name": 0x04000000, "IPC": 0x08000000,
               "process": 0x20000000, "network": 0x40000000}
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8              # of mount(2) and mount_setattr(2) alike
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_DETACH = 2
_CAPBSET_DROP, _SET_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _NO_NEW_PRIVS = 24, 1, 4, 22, 38

_SEAT = "/sys"      # a folder that is there everywhere and that no program needs: the new root is built upon it
_DEVICES = ("/dev/null", "/dev/urandom")


def _call(what: str, function: str, *args: object) -> int:
    result = getattr(_libc, function)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(what: str, option: int, *args: int) -> None:
    _call(what, "prctl", option, *(ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]))


def die_with_parent() -> None:
    """SIGKILL for this process when its parent ends. A change of user undoes it."""
    _prctl("tying a process to its parent", _SET_PDEATHSIG, 9)


def enter_namespaces(direct: bool) -> None:
    """Leaves the machine's namespaces; the next child is the first process of a new process namespace.

    `direct` needs CAP_SYS_ADMIN; else a user namespace is made first, in which the user keeps its own id. Raises
    OSError that says which namespace is refused.
    """
    if not direct:
        uid, gid = os.getuid(), os.getgid()
        _prctl("becoming readable", _SET_DUMPABLE, 1)       # else a process that changed its user cannot write the maps
        _call("a user namespace", "unshare", _NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    for name, flag in _NAMESPACES.items():
        _call(f"a {name} namespace", "unshare", flag)


def private_root(visible: list[str], disk: int) -> None:
    """Makes `/` an empty read-only tree that shows only the folders `visible`, two harmless devices and a /tmp.

    /tmp is empty, in memory, of at most `disk` bytes; it becomes the working directory. No /proc, /sys, /etc or home.
    Needs mount_setattr (Linux 5.12).
    """
    _mount("keeping mounts to ourselves", None, "/", None, _RECURSIVE | _PRIVATE)
    _mount("a new root", "tmpfs", _SEAT, "tmpfs", _NO_SETUID | _NO_DEVICES, "size=1m,nr_inodes=4096,mode=755")
    os.mkdir(f"{_SEAT}/tmp")
    os.mkdir(f"{_SEAT}/dev")
    for device in _DEVICES:
        os.close(os.open(_SEAT + device, os.O_CREAT | os.O_WRONLY, 0o644))
    for folder in visible:
        _show(folder)
    _restrict(_SEAT, _READ_ONLY | _NO_SETUID | _NO_DEVICES)
    for device in _DEVICES:
        _mount(device, device, _SEAT + device, None, _BIND)
    flags = _NO_SETUID | _NO_DEVICES | _NO_EXEC
    _mount("a private /tmp", "tmpfs", f"{_SEAT}/tmp", "tmpfs", flags, f"size={disk},nr_inodes=4096,mode=1777")
    os.chdir(_SEAT)
    _call("changing the root", "syscall", _number("pivot_root"), b".", b".")
    _call("leaving the old root", "umount2", b".", _DETACH)
    os.chdir("/tmp")


def _show(folder: str) -> None:
    """The folder at the same place of the new root; a link of the machine (/lib) stays one."""
    place = _SEAT + folder
    if os.path.lexists(place) or not os.path.isdir(folder):
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(folder):
        os.symlink(os.readlink(folder), place)
    else:
        os.mkdir(place)
        _mount(f"showing {folder}", folder, place, None, _BIND | _RECURSIVE)


def _mount(what: str, source: str | None, target: str, kind: str | None, flags: int,
           options: str | None = None) -> None:
    texts = [text if text is None else text.encode() for text in (source, target, kind, options)]
    _call(what, "mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


def _restrict(path: str, flags: int) -> None:
    """Adds mount flags to `path` and everything mounted below it."""
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", flags, 0, 0, 0))
    below, here = 0x8000, -100
    _call("making the root read-only", "syscall", _number("mount_setattr"), here, path.encode(),
          below, attributes, ctypes.c_size_t(32))


def limit(*, memory: int, cpu: int, disk: int, files: int, processes: int | None) -> None:
    """Limits of each process, in bytes, seconds and counts. `processes` counts all of this user in its namespace
    (None: leave it), threads among them, and binds only a user that is not root."""
    limits = {"AS": memory, "FSIZE": disk, "NOFILE": files, "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0, "NPROC": processes}
    for name, value in limits.items():
        if value is not None:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}", 12), (value, value))     # 12: MSGQUEUE, unnamed
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))     # SIGXCPU, which may be caught, then SIGKILL


def drop_privileges(uid: int | None) -> None:
    """No capability, now or ever again; the user becomes `uid` unless that is None."""
    for capability in range(64):
        if _libc.prctl(_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break       # the kernel knows no more
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    _call("dropping capabilities", "syscall", _number("capset"), header, ctypes.create_string_buffer(24))
    _prctl("giving up new privileges", _NO_NEW_PRIVS, 1)
    _prctl("hiding from debuggers", _SET_DUMPABLE, 0)


def unused_uid() -> int:
    """A user id that is nobody's and no other sandbox's, near the top of what this user namespace maps."""
    with open("/proc/self/uid_map") as file:
        end = max(int(first) + int(count) for first, _, count in map(str.split, file))
    return end - 1000 - os.getpid() % min(end // 2, 2 ** 22)


def filter_calls() -> None:
    """Leaves the system calls of `_ALLOWED`, for this process and all it starts; others fail with EACCES."""
    filters = _filter(platform.machine())
    buffer = ctypes.create_string_buffer(filters, len(filters))
    program = struct.pack("HxxxxxxP", len(filters) // 8, ctypes.addressof(buffer))
    _call("a system call filter (seccomp)", "prctl", _SET_SECCOMP, ctypes.c_ulong(2), ctypes.c_char_p(program), 0, 0)


def _filter(machine: str) -> bytes:
    """The filter in classic BPF, 8 bytes an instruction: code, jump if true, jump if false, constant."""
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000, 0x80000000
    column, architecture = _MACHINES[machine]
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill),      # a 32-bit call, say
             (load, 0, 0, 0)]
    for numbers in _ALLOWED.values():
        if numbers[column] is not None:
            lines += [(equal, 0, 1, numbers[column]), (give, 0, 0, allow)]
    spaces = sum(_NAMESPACES.values()) | _NEWUSER
    lines += [(equal, 0, 1, _CALLS["clone3"][column]), (give, 0, 0, refuse | errno.ENOSYS),     # libc then takes clone
              (equal, 0, 4, _CALLS["clone"][column]), (load, 0, 0, 16), (any_bit, 1, 0, spaces), (give, 0, 0, allow),
              (give, 0, 0, refuse | errno.EPERM), (give, 0, 0, refuse | errno.EACCES)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _number(name: str) -> int:
    return _CALLS[name][_MACHINES[platform.machine()][0]]


_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}     # column of the tables below; AUDIT_ARCH_...
_CALLS = {"mount_setattr": (442, 442), "pivot_root": (155, 41), "capset": (126, 91), "clone3": (435, 435),
          "clone": (56, 220)}


def _table(text: str) -> dict[str, tuple[int | None, int | None]]:
    rows = (entry.split(":") for entry in text.split())
    return {name: tuple(None if n == "-" else int(n) for n in numbers) for name, *numbers in rows}


# What Python and its standard library need for work on files of one's own, memory, threads, processes and time, with
# its numbers on x86_64 and aarch64. Not among them: exec, socket and connect, ptrace, mount and unshare, keys, bpf,
# io_uring, ioctl, memfd, System V memory, and whatever later kernels bring.
_ALLOWED = _table("""
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69 pwritev:296:70 close:3:57
close_range:436:436 open:2:- openat:257:56 creat:85:- lseek:8:62 dup:32:23 dup2:33:- dup3:292:24 fcntl:72:25
flock:73:32 stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291 statfs:137:43 fstatfs:138:44 access:21:-
faccessat:269:48 faccessat2:439:439 getdents:78:- getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 mkdir:83:-
mkdirat:258:34 rmdir:84:- unlink:87:- unlinkat:263:35 rename:82:- renameat:264:38 renameat2:316:276 link:86:-
linkat:265:37 symlink:88:- symlinkat:266:36 readlink:89:- readlinkat:267:78 chmod:90:- fchmod:91:52 fchmodat:268:53
umask:95:166 utimensat:280:88 truncate:76:45 ftruncate:77:46 fallocate:285:47 fsync:74:82 fdatasync:75:83
sendfile:40:71 copy_file_range:326:285 fadvise64:221:223 pipe:22:- pipe2:293:59 poll:7:- ppoll:271:73 select:23:-
pselect6:270:72 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22 eventfd2:290:19
socketpair:53:199 sendto:44:206 recvfrom:45:207 shutdown:48:210 getsockname:51:204 getpeername:52:205
getsockopt:55:209 setsockopt:54:208 mmap:9:222 munmap:11:215 mprotect:10:226 mremap:25:216 madvise:28:233 brk:12:214
msync:26:227 mincore:27:232 fork:57:- vfork:58:- wait4:61:260 waitid:247:95 exit:60:93 exit_group:231:94 kill:62:129
tkill:200:130 tgkill:234:131 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigsuspend:130:133
rt_sigtimedwait:128:137 rt_sigpending:127:136 sigaltstack:131:132 restart_syscall:219:128 pause:34:- futex:202:98
set_robust_list:273:99 get_robust_list:274:100 set_tid_address:218:96 rseq:334:293 membarrier:324:283
sched_yield:24:124 sched_getaffinity:204:123 sched_getparam:143:121 sched_getscheduler:145:120 getcpu:309:168
arch_prctl:158:- getpid:39:172 getppid:110:173 gettid:186:178 getuid:102:174 geteuid:107:175 getgid:104:176
getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158 getpgrp:111:- getpgid:121:155 setpgid:109:154
getsid:124:156 setsid:112:157 getpriority:140:141 getrlimit:97:- setrlimit:160:- prlimit64:302:261 getrusage:98:165
times:100:153 sysinfo:99:179 uname:63:160 getrandom:318:278 nanosleep:35:101 clock_nanosleep:230:115
clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- alarm:37:- setitimer:38:103 getitimer:36:102
""")
