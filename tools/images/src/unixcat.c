/* SPDX-License-Identifier: Apache-2.0
 *
 * unixcat PATH: connect to the unix stream socket PATH, copy standard input to it and what comes
 * back to standard output.  busybox's nc and wget cannot speak to a unix socket; guests need this
 * to ask /dev/lxd/sock.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int copy(int from, int to)
{
	char buffer[65536];
	ssize_t got = read(from, buffer, sizeof(buffer));

	for (ssize_t done = 0; done < got;) {
		ssize_t put = write(to, buffer + done, got - done);
		if (put < 0)
			return -1;
		done += put;
	}
	return (int)got;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock;

	if (argc != 2 || strlen(argv[1]) >= sizeof(address.sun_path)) {
		fprintf(stderr, "usage: unixcat PATH\n");
		return 2;
	}
	strcpy(address.sun_path, argv[1]);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
		perror(argv[1]);
		return 1;
	}
	struct pollfd fds[2] = { { 0, POLLIN, 0 }, { sock, POLLIN, 0 } };
	for (;;) {
		if (poll(fds, 2, -1) < 0)
			return 1;
		if (fds[0].revents) {
			int got = copy(0, sock);
			if (got < 0)
				return 1;
			if (got == 0) {
				shutdown(sock, SHUT_WR);
				fds[0].fd = -1;
			}
		}
		if (fds[1].revents) {
			int got = copy(sock, 1);
			if (got <= 0)
				return got < 0;
		}
	}
}
