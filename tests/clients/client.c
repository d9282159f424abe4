// Asks by plain sockets over getaddrinfo, as most programs in C do: the first address that can be connected to.
//
// Usage: client HOST PORT PATH any|4|6. Prints `== LIBRARY STATUS` and the body.

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int dial(const char *host, const char *port, int family) {
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(host, port, &hints, &found);
    if (error != 0) {
        fprintf(stderr, "getaddrinfo: %s\n", gai_strerror(error));
        exit(1);
    }
    int connection = -1;
    for (struct addrinfo *at = found; at != NULL && connection < 0; at = at->ai_next) {
        connection = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
        if (connection >= 0 && connect(connection, at->ai_addr, at->ai_addrlen) != 0) {
            perror("connect");
            close(connection);
            connection = -1;
        }
    }
    freeaddrinfo(found);
    return connection;
}

int main(int count, char **words) {
    if (count != 5) {
        fprintf(stderr, "usage: %s HOST PORT PATH any|4|6\n", words[0]);
        return 2;
    }
    int family = strcmp(words[4], "4") == 0 ? AF_INET : strcmp(words[4], "6") == 0 ? AF_INET6 : AF_UNSPEC;
    int connection = dial(words[1], words[2], family);
    if (connection < 0) {
        return 1;
    }
    FILE *stream = fdopen(connection, "r+");
    if (stream == NULL) {
        perror("fdopen");
        return 1;
    }
    fprintf(stream, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", words[3], words[1]);
    fflush(stream);
    int status = 0;
    char line[4096];
    if (fscanf(stream, "HTTP/%*s %d", &status) != 1) {
        fprintf(stderr, "no status line\n");
        return 1;
    }
    while (fgets(line, sizeof line, stream) != NULL && (strcmp(line, "\r\n") != 0)) {
    }
    printf("== sockets %d\n", status);
    while (fgets(line, sizeof line, stream) != NULL) {
        fputs(line, stdout);
    }
    printf("\n");
    return 0;
}
