// Loaded before the C library: it notes every host that is looked up and every address that is connected to.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
static void note(const char *what, const char *which) {
  FILE *log = fopen(getenv("WITNESS_LOG"), "a");
  if (log) { fprintf(log, "%s %s\n", what, which); fclose(log); }
}
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  note("looked up", host ? host : "");
  int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  real = dlsym(RTLD_NEXT, "getaddrinfo");
  return real(host, service, hints, found);
}
int connect(int file, const struct sockaddr *address, socklen_t size) {
  int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
  if (address->sa_family == AF_INET || address->sa_family == AF_INET6) note("connected to", "an address");
  return real(file, address, size);
}
