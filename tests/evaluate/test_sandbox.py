"""What programs try against the sandbox, as root and as an unprivileged user; each wall, removed, is missed."""
import dataclasses
import gzip
import json
import os
import pathlib
import platform
import socket
import sys
import tempfile
import time

import pytest

from easylm_imitation.evaluate.sandbox import (
    Limits,
    Program,
    Sandbox,
    SandboxUnavailable,
    check,
    check_all,
    pool,
    read_problems,
    run_programs,
)
from easylm_imitation.schema import UserError

SHORT, ENDLESS = Limits(cpu=1, seconds=2.0), Limits(cpu=1, seconds=0.5)
FOLDER = pathlib.Path(pool.__file__).parent


def opened(walls):
    """A sandbox with such walls, or a skip that says what is missing here."""
    if walls == "root" and os.getuid():
        pytest.skip("not root")
    found = []
    for python in (sys.executable, "/usr/bin/python3"):     # one in root's home is nobody's else
        try:
            return Sandbox(walls=walls, python=python).__enter__()
        except SandboxUnavailable as reason:
            found.append(str(reason))
    pytest.skip(found[0])


@pytest.fixture(scope="module", params=["root", "user"])
def sandbox(request):
    made = opened(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def any_sandbox():
    try:
        with Sandbox() as made:
            yield made
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))


def said(sandbox, source, limits=None):
    """What a program printed, as JSON; it must have ended well."""
    outcome = sandbox.run(Program(source), limits)
    assert outcome.ok, outcome
    return json.loads(outcome.output)


TRY = """
import json, os, socket, ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
done = []
def attempt(name, action):
    try:
        value = action()
    except (OSError, MemoryError, ValueError) as error:
        return
    done.append([name, str(value)[:80]])
def libc_call(name, *args):
    ctypes.set_errno(0)
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)
"""
TELL = "\nprint(json.dumps(done))\n"


def test_a_program_runs_as_main_and_its_end_is_told(sandbox):
    outcome = sandbox.run(Program("import sys\nif __name__ == '__main__':\n    print(6 * 7)\n    sys.exit(0)"))
    assert (outcome.status, outcome.output) == ("ok", "42\n")
    for source, status, detail in [
            ("raise ValueError('no')", "failed", "ValueError: no"), ("def f(:", "failed", "SyntaxError: invalid"),
            ("import sys; sys.exit(3)", "failed", "exit status 3"), ("import sys; sys.exit('bye')", "failed", "exit"),
            ("import os; os.kill(os.getpid(), 9)", "killed", "by signal 9"),
            ("x = '\ud800'", "failed", "SyntaxError")]:
        outcome = sandbox.run(Program(source))
        assert (outcome.status, outcome.detail[:len(detail)]) == (status, detail)


def test_files_of_the_machine_are_neither_seen_nor_written(sandbox, tmp_path):
    (tmp_path / "secret").write_text("key")
    places = ["/etc/shadow", "/etc/passwd", "/proc/1/environ", "/proc/self/mem", "/root/.bashrc", "/home", "/var/log",
              "/sys/kernel", "/dev/mem", "/dev/kmsg", "/dev/shm", "/dev/ptmx", "/dev/tty", "/dev/vda", "/dev/fuse",
              "/run", "/bin/sh", "/usr/bin", str(tmp_path / "secret"), str(pathlib.Path.home() / ".ssh"),
              str(pathlib.Path(__file__)), os.getcwd(), "/proc/self/root", "../../etc/shadow", "/tmp/../etc/shadow"]
    assert said(sandbox, TRY + f"""
for place in {places!r}:
    attempt("stat " + place, lambda: os.stat(place))
    attempt("open " + place, lambda: open(place, "rb").read(1))
for place in ("/", "/usr", "/usr/lib", "/lib", "/dev", os.path.dirname(os.__file__)):
    attempt("write " + place, lambda: open(place + "/mine", "w"))
    attempt("mkdir " + place, lambda: os.mkdir(place + "/mine"))
    attempt("remove " + place, lambda: os.rename(place, place + "2"))
attempt("library", lambda: open(os.__file__, "a"))
os.symlink("/etc/shadow", "link")
attempt("link", lambda: open("link").read())
attempt("hard link", lambda: os.link("/etc/shadow", "hard"))
attempt("hard link of a library", lambda: os.link(os.__file__, "hard"))
attempt("node", lambda: os.mknod("null", 0o20666, os.makedev(1, 1)))
attempt("descriptors", lambda: [fd for fd in range(5, 300) if not os.fstat(fd)])
""" + TELL) == []
    assert said(sandbox, "import os, json; print(json.dumps([os.getcwd(), os.listdir()]))") == ["/tmp", ["program.py"]]


def test_no_network_not_even_the_machine_itself(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0sandbox-{server.getsockname()[1]}")
        abstract.listen()
        for one in (server, abstract):
            one.setblocking(False)
        assert said(sandbox, TRY + f"""
port = {server.getsockname()[1]}
attempt("connect", lambda: socket.create_connection(("127.0.0.1", port), 1))
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET, 40):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        attempt(f"socket {{family}} {{kind}}", lambda: socket.socket(family, kind))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect(f"\\0sandbox-{{port}}"))
attempt("name", lambda: socket.gethostbyname("localhost"))
pair = socket.socketpair()
attempt("a pair reaches out", lambda: pair[0].connect(f"\\0sandbox-{{port}}"))
""" + TELL) == []
        for one in (server, abstract):
            with pytest.raises(BlockingIOError):
                one.accept()


def test_every_wall_as_the_kernel_tells_it(sandbox):
    """The program's namespaces, user, capabilities and filter, read from outside; each is one wall, and others may
    stand behind it."""
    children = pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("this kernel lists no children")
    cell = sandbox._started(Program("import time\ntime.sleep(60)"), Limits())
    try:
        pid, deadline = str(sandbox._server.pid), time.monotonic() + 10
        for _ in ("keeper", "first", "program"):
            while not (found := pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            pid = found[-1]
        status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Eff", "Prm", "Inh", "Bnd", "Amb")} == {0}
        assert "0" not in status["Uid"].split() + status["Gid"].split()
        if os.getuid() == 0:        # else nobody may look
            for name in ("net", "mnt", "pid", "ipc", "uts", "cgroup"):
                assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name
    finally:
        cell.__exit__()


def test_calls_that_could_lead_out_are_refused(sandbox):
    numbers = {"x86_64": dict(ptrace=101, process_vm_readv=310, bpf=321, io_uring=425, keyctl=250, userfaultfd=323,
                              perf=298, memfd=319, shmget=29, init_module=175, kexec=246, setns=308, open_tree=428,
                              pidfd_getfd=438, personality=135, ioctl=16, prctl=157, chroot=161),
               "aarch64": dict(ptrace=117, process_vm_readv=270, bpf=280, io_uring=425, keyctl=219, setns=268)}
    assert said(sandbox, TRY + f"""
for name, number in {numbers[platform.machine()]!r}.items():
    attempt(name, lambda: libc_call("syscall", number, 0, 0, 0, 0, 0, 0))
    assert ctypes.get_errno() in (errno.EACCES, errno.EPERM), name
attempt("mount", lambda: libc_call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
attempt("umount", lambda: libc_call("umount2", b"/tmp", 2))
attempt("unshare", lambda: libc_call("unshare", 0x10000000))
attempt("clone into namespaces", lambda: libc_call("syscall", {dict(x86_64=56, aarch64=220)[platform.machine()]},
                                                   0x10000000 | 17, 0, 0, 0, 0))
for name in ("setuid", "setgid"):
    attempt(name, lambda: getattr(os, name)(0))
attempt("exec", lambda: os.execv(sys.executable, [sys.executable]))
attempt("shell", lambda: os.posix_spawn("/bin/sh", ["sh"], {{}}))
attempt("nice", lambda: os.nice(-5))
attempt("hostname", lambda: socket.sethostname("x"))
attempt("limits", lambda: __import__("resource").setrlimit(6, (10000, 10000)))
""" + TELL) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="another machine language")
def test_system_calls_of_another_architecture_are_no_way_around(sandbox):
    """`mov eax, 20; int 0x80; ret`: getpid as a 32-bit program would ask it."""
    outcome = sandbox.run(Program("""
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print("called")
"""))
    assert (outcome.status, outcome.detail, outcome.output) == ("killed", "by signal 31", "")


def test_a_fork_bomb_ends_at_the_limit(sandbox):
    for bomb in ("os.fork() or time.sleep(60)", "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"):
        made = said(sandbox, f"""
import json, os, threading, time
made = 0
try:
    while made < 1000:
        {bomb}
        made += 1
except (OSError, RuntimeError):
    print(json.dumps(made), flush=True)
    os._exit(0)
""")
        assert made == Limits().processes - 1
    forks = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    assert sandbox.run(Program(forks), ENDLESS).status == "timeout"
    assert sandbox.run(Program("print(1)")).ok


def test_what_it_leaves_behind_is_dead(tmp_path):
    """A daemon in a session of its own, all descriptors closed, deaf to polite signals."""
    python = tmp_path / "an-interpreter-of-this-test"
    python.symlink_to(os.path.realpath(sys.executable))

    def alive():
        commands = {pid: pid.joinpath("cmdline") for pid in pathlib.Path("/proc").iterdir() if pid.name.isdigit()}
        return [pid.name for pid, path in commands.items() if path.exists() and str(python).encode() in reading(path)]

    def reading(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return b""

    source = """
import os, signal, time
if not os.fork():
    os.setsid()
    if not os.fork():
        os.closerange(0, 100)
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        while True:
            time.sleep(1)
    os._exit(0)
print("left")
"""
    try:
        with Sandbox(python=str(python)) as sandbox:
            assert sandbox.run(Program(source)).output == "left\n"
            deadline = time.monotonic() + 10
            while len(alive()) > 1 and time.monotonic() < deadline:     # its keeper may still be leaving
                time.sleep(0.01)
            assert alive() == [str(sandbox._server.pid)]
            cell = sandbox._started(Program("import time\ntime.sleep(600)"), Limits(seconds=600))
            while len(alive()) < 4:
                time.sleep(0.01)
            sandbox.close()         # as when the caller is killed: the pipe to the server closes
            deadline = time.monotonic() + 10
            while alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            cell.__exit__()
            assert alive() == []
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("source", [
    "import os, signal\nos.kill(-1, 9)", "import os, signal\nos.kill(os.getppid(), 9)\nos.kill(1, 9)\nos.kill(1, 15)",
    "import os\nos.killpg(0, 9)", "import os, signal\nfor n in range(1, 65):\n    os.kill(1, n)",
    "import os\nfor p in range(2, 5000):\n    try:\n        os.kill(p, 9)\n    except OSError:\n        pass",
    "import os, signal\nos.kill(1, signal.SIGSTOP)\nos.kill(os.getpid(), signal.SIGSTOP)"])
def test_signals_reach_nobody_else(sandbox, source):
    outcome = sandbox.run(Program(source), ENDLESS)
    assert outcome.status in ("ok", "failed", "killed", "timeout")
    assert sandbox.run(Program("print('still here')")).output == "still here\n"


@pytest.mark.parametrize(("source", "status"), [
    ("import time\ntime.sleep(1000)", "timeout"), ("while True:\n    pass", "timeout"),
    ("import signal\nfor n in (14, 15, 24):\n    signal.signal(n, signal.SIG_IGN)\nwhile True:\n    pass", "timeout"),
    ("while True:\n    print('x' * 1000)", "output"), ("import sys\nwhile True:\n    sys.stderr.write('x')", "output"),
    ("x = bytearray(8 << 30)", "failed"), ("x = [0]\nwhile True:\n    x += x", "failed"),
    ("import os\nos.abort()", "killed"), ("import os\nos._exit(7)", "failed"),
    ("import ctypes\nctypes.string_at(0)", "killed"), ("def f():\n    return f()\nf()", "failed"),
    ("import sys\nsys.setrecursionlimit(10 ** 9)\ndef f():\n    return f() + 1\nf()", "killed|failed|timeout"),
    ("open('big', 'wb').write(bytes(64 << 20))", "failed"), ("input()", "failed")])
def test_what_never_ends_or_takes_too_much(sandbox, source, status):
    limits = dataclasses.replace(SHORT, cpu=20, seconds=20.0) if "x += x" in source else SHORT
    limits = ENDLESS if "timeout" in status else limits
    outcome = sandbox.run(Program(source), limits)
    assert outcome.status in status.split("|"), outcome
    assert len(outcome.output) <= SHORT.output
    if "bytearray" in source or "x += x" in source:
        assert outcome.detail == "MemoryError"


def test_many_files_meet_the_limit_of_all(sandbox):
    written = said(sandbox, """
import json
total = 0
try:
    for number in range(100):
        total += open(f"f{number}", "wb", buffering=0).write(bytes(1 << 20))
except OSError:
    print(json.dumps(total))
""")
    assert written <= Limits().disk


def test_keys_in_the_callers_environment_stay_there(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    names, = run_or_skip([Program("import os; print(sorted(os.environ))")])
    assert "sk-" not in names.output
    assert "OPENAI" not in names.output


def run_or_skip(programs, **options):
    try:
        return run_programs(programs, **options)
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))


def test_many_at_once_come_back_in_order():
    outcomes = run_or_skip([Program(f"print({n})") for n in range(12)], workers=4)
    assert [o.output for o in outcomes] == [f"{n}\n" for n in range(12)]


@pytest.fixture
def open_folder():
    """A folder that every user may write and reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield folder


@pytest.mark.parametrize(("without", "missed"), [
    ("kernel.filter_calls = lambda: None", "tracing|starting programs"),
    ("kernel.private_root = lambda *_: kernel.os.chdir('HERE')", "/etc"),
    ("kernel.limit = lambda **_: None", "endless processes, endless memory"),
    ("kernel.drop_privileges = lambda uid: None", "root user|seccomp|Permission|Operation not permitted"),
    ("kernel.enter_namespaces = lambda direct: kernel._call('a user namespace', 'setuid', -1)", "a user namespace: "),
    ("raise ValueError('broken')", "ValueError: broken")])
def test_a_missing_wall_is_a_refusal_that_names_it_and_the_cure(any_sandbox, monkeypatch, open_folder, without, missed):
    without = without.replace("HERE", open_folder)
    monkeypatch.setattr(pool, "_START", pool._START.replace("cell.serve()", f"import kernel; {without}; cell.serve()"))
    with pytest.raises(SandboxUnavailable, match=f"cannot hold model-written code: .*({missed}).*What it needs: Linux"):
        Sandbox(walls=any_sandbox.walls).__enter__()


def test_without_walls_only_by_name(tmp_path):
    with pytest.raises(SandboxUnavailable, match="/bin/false, has ended|nothing was told"):
        Sandbox(python="/bin/false", walls="user").__enter__()
    secret = tmp_path / "file"
    secret.write_text("seen")
    source = f"import os, time\nprint(open({str(secret)!r}).read(), os.getuid())"
    outcome, late = run_programs([Program(source), Program("while True:\n    pass")], ENDLESS, unsafe=True)
    assert outcome.output == f"seen {os.getuid()}\n"
    assert late.status == "timeout"


# HumanEval

PROBLEM = {"task_id": "t/0", "entry_point": "double", "prompt": 'def double(x):\n    """Twice x."""\n',
           "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate([1]) == [1, 1]\n"
                   "    assert candidate((1, 'a')) == (1, 'a', 1, 'a')\n"}


@pytest.mark.parametrize("completion", [
    "    return x * 2\n", "    return x + x\n\nprint('noise')\n",
    "    import sys\n    return sys.modules['__main__'].g(x)\n\ndef g(x):\n    return 2 * x\n"])
def test_right_completions_pass(any_sandbox, completion):
    assert check(any_sandbox, PROBLEM, completion).passed


@pytest.mark.parametrize("completion", [
    "    pass\n", "    return 4\n", "    import os\n    os._exit(0)\n", "    raise SystemExit(0)\n", "    exit()\n",
    "    class Same:\n        __eq__ = lambda *_: True\n        __bool__ = lambda _: True\n    return Same()\n",
    "    class Same(int):\n        __eq__ = lambda *_: True\n        __hash__ = None\n    return Same()\n",
    "    return x\n\nimport builtins\nbuiltins.AssertionError = Warning\n",
    "    return x\n\ndef check(candidate):\n    pass\n", "    return x\n\n__debug__\nimport os\nos._exit(0)\n",
    "    import sys\n    for frame in sys._current_frames().values():\n        while frame:\n"
    "            frame.f_globals['check'] = lambda c: None\n            frame = frame.f_back\n    return x\n",
    "    import os\n    for fd in range(256):\n        try:\n            os.write(fd, b'{\"code\": 0}' * 9)\n"
    "        except OSError:\n            pass\n    os._exit(0)\n",
    "    import os\n    f = b'{\"returned\": 4}'\n    os.write(4, len(f).to_bytes(4, 'big') + f)\n    return 4\n",
    "    import os\n    os.write(4, b'\\x7f\\xff\\xff\\xff' + b'[' * 100000)\n    return 4\n",
    "    import os\n    body = b'[' * 100000\n    os.write(4, len(body).to_bytes(4, 'big') + body)\n    return 4\n",
    "    import calls, os\n    calls.encode = lambda v: {'evil': [v]}\n    return 4\n",
    "    import gc, sys\n    for o in gc.get_objects():\n        if type(o) is dict and 'code' in o:\n"
    "            o['code'] = 0\n    sys.exit(0)\n",
    "    import os, signal\n    os.kill(os.getppid(), signal.SIGTERM)\n    os.kill(-1, 9)\n    return 4\n",
    "    print('passed', 'ok', 0, flush=True)\n    return None\n", "    while True:\n        print('passed')\n",
    "    l = []\n    l.append(l)\n    return l\n", "    return (i for i in iter(int, 1))\n"])
def test_forged_success_does_not_pass(any_sandbox, completion):
    """Leaving early, things that equal everything, patched builtins and checks, words and frames written everywhere."""
    verdict = check(any_sandbox, PROBLEM, completion, Limits(cpu=1, seconds=6.0))
    assert not verdict.passed
    assert verdict.reason


@pytest.mark.parametrize(("completion", "reason"), [
    ("    pass\n", "failed: AssertionError"), ("    return x.y\n", "failed: AttributeError: 'int' object has no"),
    ("  return\n", "failed: IndentationError"), ("    while True: pass\n", "timeout: used up its CPU seconds"),
    ("    import numpy\n", "failed: ModuleNotFoundError: No module named 'numpy'"),
    ("    return 1 / 0\n", "failed: ZeroDivisionError: division by zero")])
def test_why_a_completion_failed(any_sandbox, completion, reason):
    assert check(any_sandbox, PROBLEM, completion, Limits(cpu=1, seconds=9.0)).reason.startswith(reason)


@pytest.mark.parametrize("value", [
    "None", "True", "3", "-2 ** 70", "10 ** 5000", "0.1", "float('inf')", "'a\\ud800é'", "b'x\\x00'", "[1, (2, [3.0])]",
    "{1: {'a': {2, 3}}, (1, 2): frozenset({4})}", "2 + 3j", "__import__('collections').Counter('aab')",
    "__import__('fractions').Fraction(1, 3)", "__import__('decimal').Decimal('1.10')", "range(0)"])
def test_values_cross_as_they_are(any_sandbox, value):
    """What a function returns equals what it would be here, type by type (a subclass as what it derives from)."""
    problem = {"prompt": "def f(x):\n    ''", "entry_point": "f",
               "test": f"def check(c):\n    want = {value}\n    got = c(want)\n"
                       f"    assert got == c(got) == want or type(want) is range\n"}
    assert check(any_sandbox, problem, "\n    return x\n").passed


def test_the_real_problems_and_their_solutions(any_sandbox, shared_data):
    judge_real(shared_data, slice(3, None, 12))


@pytest.mark.slow
def test_all_of_the_real_problems(any_sandbox, shared_data):
    assert judge_real(shared_data, slice(None)) == 164


def judge_real(shared_data, part):
    """Every canonical solution passes, every empty one fails."""
    problems = read_problems(shared_data / "human_eval" / "HumanEval.jsonl.gz")
    names = list(problems)[part]
    right = check_all(problems, [(name, problems[name]["canonical_solution"]) for name in names])
    assert [(name, v.reason) for name, v in zip(names, right) if not v.passed] == []
    assert not any(v.passed for v in check_all(problems, [(name, "    pass\n") for name in names]))
    return len(names)


def test_files_of_problems_that_are_none(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(PROBLEM) + "\n" + json.dumps({"task_id": "t/1"}) + "\n")
    with pytest.raises(UserError, match="problem 2 lacks prompt, entry_point, test"):
        read_problems(path)
    with pytest.raises(UserError, match="not a readable file of problems"):
        read_problems(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="a sample is for 't/9', which is none of the 1 problems"):
        check_all({"t/0": PROBLEM}, [("t/9", "")])
