/* SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
 *
 * Preloaded into linux.uml by the script uml, because of processors with large extended
 * registers (AMX: 11008 bytes of state). User Mode Linux 6.1 keeps the first 2696 bytes of a
 * process's state, and a newer kernel refuses to set a state that is not whole (EFAULT), so
 * the guest would die before its first instruction. Here the missing rest is filled with the
 * process's present one. Not for anything else; it runs on linux.uml's only thread.
 */
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Not on the stack: linux.uml calls from its guest's small kernel stacks. */
static uint8_t state[64 * 1024] __attribute__((aligned(64)));

static long set_whole_state(long pid, const struct iovec *part)
{
    struct iovec whole = { .iov_base = state, .iov_len = sizeof(state) };

    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
        return -1;
    memcpy(state, part->iov_base, part->iov_len < whole.iov_len ? part->iov_len
                                                                : whole.iov_len);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list args;
    long pid, addr, data, word, result;

    va_start(args, request);
    pid = va_arg(args, long);
    addr = va_arg(args, long);
    data = va_arg(args, long);
    va_end(args);
    if (request == PTRACE_SETREGSET && addr == NT_X86_XSTATE)
        return set_whole_state((pid_t)pid, (const struct iovec *)data);
    /* The C library returns the word that the kernel stores through a pointer. */
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        result = syscall(SYS_ptrace, request, (pid_t)pid, addr, &word);
        return result < 0 ? result : word;
    }
    return syscall(SYS_ptrace, request, (pid_t)pid, addr, data);
}
