// SPDX-License-Identifier: Apache-2.0
/* For LD_PRELOAD into User Mode Linux on processors with AMX.
 *
 * It keeps a process's vector registers in a buffer of 2696 bytes, what AVX-512 takes.  Where the
 * host's kernel knows of more, it refuses to set registers from a buffer that is shorter than all
 * of them (EFAULT), and the machine dies at its first process.  So the rest, which nothing in the
 * machine uses, is set to what it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...)
{
	static long (*real)(enum __ptrace_request, ...);
	static unsigned char whole[64 * 1024];
	struct iovec registers = { whole, sizeof(whole) };
	const struct iovec *given;
	va_list arguments;
	void *address, *data;
	pid_t pid;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if (!real)
		real = dlsym(RTLD_NEXT, "ptrace");
	if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
		return real(request, pid, address, data);
	given = data;
	if (real(PTRACE_GETREGSET, pid, address, &registers) || registers.iov_len <= given->iov_len)
		return real(request, pid, address, data);
	memcpy(whole, given->iov_base, given->iov_len);
	return real(request, pid, address, &registers);
}
