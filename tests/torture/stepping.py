"""What a file holds after each single store that a process makes to it: what a `kill -9` at that point would leave.

A forked child does the work under ptrace. Every shared, writable mapping of the file is made read-only in the child
from outside, so that a store to it stops the child before it has happened. The mapping is then made writable for the
one instruction, the instruction is stepped, and the mapping is made read-only again. System calls are followed too:
what one of them leaves in the file counts as much, and a mapping that one of them makes is protected at once.

So this is exact down to the instruction, compiled or interpreted, and what the child does besides runs at full speed:
a store takes about 0.1 ms. Only a copy of thousands of bytes by one instruction is looked at every few bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import random
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, groupby, islice

__all__ = ["AVAILABLE", "State", "Work", "states_of", "thinned"]

AVAILABLE = sys.platform == "linux" and platform.machine() == "x86_64"

# Work is prepared in the child and gives the operation itself, of which every store is followed.
Work = Callable[[str], Callable[[], object]]

_PAGE = mmap.PAGESIZE
_WIDEST = 64  # bytes that one instruction stores
_STRETCH = 100  # bytes, at most, between two looks at a copy that one instruction makes

_TRACEME, _SINGLESTEP, _GETREGS, _SETREGS, _SYSCALL = 0, 9, 12, 13, 24
_SETOPTIONS, _GETSIGINFO = 0x4200, 0x4202
_O_TRACESYSGOOD, _O_EXITKILL = 0x1, 0x100000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_MPROTECT = 10
_MAKES_MAPPINGS = {9, 10, 25}  # mmap, mprotect, mremap
_SIGINFO_BYTES, _SIGINFO_ADDRESS = 128, 16

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


_NAMES = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs gs ds es fs_ gs_"


class _Registers(ctypes.Structure):
    """user_regs_struct. fs and gs are the bases, and the selectors come last."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in _NAMES.split()]


@dataclass(frozen=True)
class State:
    """What the file holds at one point of the work.

    size: of the file; None when there is no file at the path. pages: offset -> bytes of each page that is not empty.
    by: which stop of the process it was found at. An instruction that repeats itself stops once, and makes many.
    """

    size: int | None
    pages: dict[int, bytes]
    by: int

    def write(self, path: str) -> None:
        """Put it in place of whatever is at `path`."""
        if os.path.lexists(path):
            os.unlink(path)
        if self.size is None:
            return
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(fd, self.size)
            for offset, data in self.pages.items():
                os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def __getitem__(self, offset: int) -> int:
        """The byte at `offset`."""
        page = self.pages.get(offset // _PAGE * _PAGE)
        return 0 if page is None else page[offset % _PAGE]


class _Watched:
    """The file at a path, and what of it was seen last. It follows the path when another file takes its place."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._size: int | None = None
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._seen: dict[int, bytes] = {}  # all pages that may hold anything
        self._runs: list[tuple[int, bytes]] = []  # the same in long runs, which are quick to compare
        self.look_at_file()

    def look_at_file(self) -> bool:
        """See what a system call may have changed: which file it is, its size, what it holds; True when changed."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            changed = self._identity is not None
            self._identity = self._size = None
            self._forget()
            return changed
        try:
            status = os.fstat(fd)
            identity = status.st_dev, status.st_ino
            changed = identity != self._identity or status.st_size != self._size
            if changed:
                self._identity, self._size = identity, status.st_size
                self._forget()
                if status.st_size:
                    self._map = mmap.mmap(fd, status.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
                    self._view = memoryview(self._map)
            known = set(self._seen)
            for start, end in _extents(fd, status.st_size):
                known.update(range(start // _PAGE * _PAGE, end, _PAGE))
            if known != set(self._seen):
                for offset in known - set(self._seen):
                    self._seen[offset] = bytes(_PAGE)
                self._join()
            return self._compare() or changed
        finally:
            os.close(fd)

    def look_at_memory(self, *stored: int) -> bool:
        """See what a store may have changed. stored: offsets near which it was; True when something changed."""
        new = {offset // _PAGE * _PAGE for offset in stored} - set(self._seen)
        if new:
            for offset in new:
                if offset < len(self._view):
                    self._seen[offset] = bytes(_PAGE)
            self._join()
        return self._compare()

    def _compare(self) -> bool:
        view, changed = self._view, False
        for start, data in self._runs:
            if view[start : start + len(data)] != data:
                changed = True
                for offset in range(start, start + len(data), _PAGE):
                    page = self._seen[offset]
                    if view[offset : offset + len(page)] != page:
                        self._seen[offset] = bytes(view[offset : offset + _PAGE])
        if changed:
            self._join()
        return changed

    def _join(self) -> None:
        offsets = sorted(self._seen)
        runs = groupby(enumerate(offsets), lambda each: each[1] - each[0] * _PAGE)
        self._runs = []
        for _, run in runs:
            members = [offset for _, offset in run]
            data = b"".join(self._seen[offset] for offset in members)
            self._runs.append((members[0], data[: len(self._view) - members[0]]))

    def _forget(self) -> None:
        self._seen, self._runs, self._view, self._map = {}, [], memoryview(b""), None

    def state(self, by: int) -> State:
        return State(self._size, {offset: page for offset, page in self._seen.items() if any(page)}, by)


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # a hole up to the end
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


# `syscall; int3` in executable memory, which every forked child has at the same address.
_code = mmap.mmap(-1, _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
_code.write(b"\x0f\x05\xcc")
_SYSCALL_AT = ctypes.addressof(ctypes.c_char.from_buffer(_code))


class _Tracee:
    """A stopped child, and what can be done to it."""

    def __init__(self, pid: int, path: str) -> None:
        self.pid = pid
        self.path = path
        self.mappings: list[tuple[int, int, int]] = []  # start, end, offset in the file; all of them read-only now
        self._registers = _Registers()
        self._siginfo = ctypes.create_string_buffer(_SIGINFO_BYTES)
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self._rng = random.Random(len(path))

    def close(self) -> None:
        os.close(self._memory)

    def request(self, what: int, address: int = 0, data: object = None) -> None:
        pointer = ctypes.c_void_p(data) if isinstance(data, int) else data
        if _ptrace(what, self.pid, ctypes.c_void_p(address), pointer) == -1:
            raise OSError(ctypes.get_errno(), f"ptrace request {what}")

    def resume(self, how: int, signum: int = 0) -> int:
        """Let it go on; the wait status of its next stop, or of its end."""
        self.request(how, 0, signum)
        return self.wait()

    def wait(self) -> int:
        return os.waitpid(self.pid, 0)[1]

    def registers(self) -> _Registers:
        self.request(_GETREGS, 0, ctypes.byref(self._registers))
        return self._registers

    def fault_address(self) -> int:
        self.request(_GETSIGINFO, 0, ctypes.byref(self._siginfo))
        return int(struct.unpack_from("<Q", self._siginfo.raw, _SIGINFO_ADDRESS)[0])

    def protect_new_mappings(self) -> None:
        """Make every shared and writable mapping of the file read-only."""
        with open(f"/proc/{self.pid}/maps") as maps:
            for line in maps:
                fields = line.split(maxsplit=5)
                if (
                    len(fields) == 6
                    and fields[1] == "rw-s"
                    and fields[5].strip().removesuffix(" (deleted)") == self.path
                ):
                    start, end = (int(part, 16) for part in fields[0].split("-"))
                    self._mprotect(start, end, mmap.PROT_READ)
                    self.mappings.append((start, end, int(fields[2], 16)))

    def mapping_of(self, address: int) -> tuple[int, int, int] | None:
        return next((each for each in self.mappings if each[0] <= address < each[1]), None)

    def _mprotect(self, start: int, end: int, protection: int) -> None:
        """Have the child call mprotect, whatever it was about to do."""
        saved = _Registers.from_buffer_copy(self.registers())
        call = _Registers.from_buffer_copy(saved)
        call.rax, call.rdi, call.rsi, call.rdx = _MPROTECT, start, end - start, protection
        call.rip, call.orig_rax = _SYSCALL_AT, (1 << 64) - 1  # so the kernel restarts no call of the child's own
        self.request(_SETREGS, 0, ctypes.byref(call))
        status = self.resume(_SINGLESTEP)
        assert os.WIFSTOPPED(status), status
        assert os.WSTOPSIG(status) == signal.SIGTRAP, status
        assert self.registers().rax == 0, "mprotect failed in the child"
        saved.orig_rax = (1 << 64) - 1
        self.request(_SETREGS, 0, ctypes.byref(saved))

    def store(self, mapping: tuple[int, int, int], address: int) -> Iterator[tuple[int, int]]:
        """Step the one instruction that wants to store there; (address, bytes) of what it may have stored.

        For an instruction that repeats itself (`rep stos`, `rep movs`) one after each of several stretches.
        """
        start, end, _ = mapping
        begun = self.registers().rip
        self._mprotect(start, end, mmap.PROT_READ | mmap.PROT_WRITE)
        while True:
            status = self.resume(_SINGLESTEP)
            assert os.WIFSTOPPED(status), _described(status)
            assert os.WSTOPSIG(status) == signal.SIGTRAP, _described(status)
            yield address, _WIDEST
            registers = self.registers()
            if registers.rip != begun:
                break
            address = registers.rdi  # this is where it goes on
            yield address, self._go_ahead()
            address = self.registers().rdi
            if not start <= address < end:
                break
        self._mprotect(start, end, mmap.PROT_READ)

    def _go_ahead(self) -> int:
        """Do some turns of an instruction that repeats itself, all but the last at most; the bytes stored.

        The processor stops after each turn, that is after each byte of thousands. So this does what it would do, for a
        number of bytes that differs each time.
        """
        registers = self._registers
        code = os.pread(self._memory, 3, registers.rip)
        wide = code[1] == 0x48
        instruction = code[2] if wide else code[1]
        width = {0xA4: 1, 0xAA: 1, 0xA5: 8 if wide else 4, 0xAB: 8 if wide else 4}.get(instruction, 0)
        backwards = registers.eflags & 0x400
        if code[0] != 0xF3 or not width or backwards:
            return 0
        turns = min(self._rng.randrange(_STRETCH) // width, registers.rcx - 1)
        size = turns * width
        if instruction in (0xA4, 0xA5):
            data = os.pread(self._memory, size, registers.rsi)
            registers.rsi += size
        else:
            data = registers.rax.to_bytes(8, "little")[:width] * turns
        os.pwrite(self._memory, data, registers.rdi)
        registers.rdi += size
        registers.rcx -= turns
        self.request(_SETREGS, 0, ctypes.byref(registers))
        return size


def states_of(work: Work, path: str, until: int | None = None) -> list[State]:
    """Every state of the file at `path` while a child does the operation that `work` prepares; the last is its end.

    until: the number of the state in which the child is killed; with None it is killed when the operation is over.
    Raises AssertionError with its traceback when the work fails.
    """
    errors, report = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(errors)
        _run(work, path, report)
    os.close(report)
    child = _Tracee(pid, path)
    try:
        return list(islice(_follow(child), None if until is None else until + 1))
    except ChildProcessError as end:
        with open(errors, closefd=False) as traceback_of_child:
            raise AssertionError(f"the work failed, {end}:\n{traceback_of_child.read()}") from None
    finally:
        os.close(errors)
        child.close()
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def _run(work: Work, path: str, report: int) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        operation = work(path)
        _ptrace(_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        operation()
        os.kill(os.getpid(), signal.SIGSTOP)
    except BaseException:
        os.write(report, traceback.format_exc().encode())
    finally:
        os._exit(1)


def _follow(child: _Tracee) -> Iterator[State]:
    status = child.wait()
    if not os.WIFSTOPPED(status):
        raise ChildProcessError(_described(status))
    child.request(_SETOPTIONS, 0, _O_TRACESYSGOOD | _O_EXITKILL)
    child.protect_new_mappings()
    watched = _Watched(child.path)
    yield watched.state(0)
    passed_on, inside = 0, False
    for stop in count(1):
        status = child.resume(_SYSCALL, passed_on)
        passed_on = 0
        if not os.WIFSTOPPED(status):
            raise ChildProcessError(_described(status))
        stopped_by = os.WSTOPSIG(status)
        if stopped_by == _SYSCALL_STOP:
            inside = not inside
            if inside:
                continue
            call = child.registers().orig_rax
            if call in _MAKES_MAPPINGS:
                child.protect_new_mappings()
            if watched.look_at_file():
                yield watched.state(stop)
        elif stopped_by == signal.SIGSTOP:
            return
        elif stopped_by == signal.SIGSEGV:
            mapping = child.mapping_of(fault := child.fault_address())
            if mapping is None:
                passed_on = stopped_by  # an error of the child's own
                continue
            for address, size in child.store(mapping, fault):
                offset = address - mapping[0] + mapping[2]
                if watched.look_at_memory(offset, offset + size):
                    yield watched.state(stop)
        else:
            passed_on = stopped_by


def _described(status: int) -> str:
    if os.WIFSTOPPED(status):
        return f"stopped by {signal.Signals(os.WSTOPSIG(status) & 0x7F).name}"
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def thinned(states: list[State], rng: random.Random, of_a_run: int, most: int) -> list[tuple[int, State]]:
    """(number, state) of those to check, `most` at most: all, but of a long run by one instruction `of_a_run` only.

    Copying 16 KiB by one instruction gives thousands of states. The first and the last one always remain.
    """
    kept: list[tuple[int, State]] = []
    for _, run in groupby(enumerate(states), lambda each: each[1].by):
        kept += _drawn(list(run), rng, of_a_run)
    return _drawn(kept, rng, most)


def _drawn(states: list[tuple[int, State]], rng: random.Random, most: int) -> list[tuple[int, State]]:
    if len(states) <= most:
        return states
    drawn = sorted(rng.sample(range(1, len(states) - 1), most - 2))
    return [states[0], *(states[number] for number in drawn), states[-1]]
