/* Preloaded into linux.uml (6.1), for two things it lacks:
 * - It keeps less room for the extended processor state than processors with AMX have, and the host
 *   refuses to set a part of it (EFAULT): the state is set again with zeros behind it, which is the
 *   initial state of what is missing.
 * - Its processes are traced host processes. When it dies they must die too (PTRACE_O_EXITKILL), not go
 *   on untraced, with system calls that reach the host. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char state[65536];

static long call(long request, long pid, void *address, void *data)
{
	return syscall(SYS_ptrace, request, pid, address, data);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	long pid = va_arg(arguments, int);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	/* As glibc does: the kernel's PEEK requests store through data, and the function returns the word. */
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long word = 0;
		if (call(request, pid, address, &word) < 0)
			return -1;
		errno = 0;
		return word;
	}
	/* 21: PTRACE_OLDSETOPTIONS, which glibc does not name. */
	if (request == PTRACE_SETOPTIONS || (long)request == 21)
		data = (void *)((long)data | PTRACE_O_EXITKILL);
	long result = call(request, pid, address, data);
	if (result == 0 || errno != EFAULT || request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE)
		return result;

	const struct iovec *given = data;
	struct iovec whole = { state, sizeof state };
	if (call(PTRACE_GETREGSET, pid, address, &whole) < 0 || given->iov_len >= whole.iov_len)
		return errno = EFAULT, -1;
	memset(state, 0, whole.iov_len);
	memcpy(state, given->iov_base, given->iov_len);
	return call(PTRACE_SETREGSET, pid, address, &whole);
}
