"""Asks by urllib and by http.client, and over one family by http.client at an address of it.

Usage: client.py HOST PORT PATH any|4|6. Prints `== LIBRARY STATUS` and the body.
"""

import http.client
import socket
import sys
import urllib.request


def by_urllib(host, port, path):
    authority = host if port == 80 else f"{host}:{port}"
    with urllib.request.urlopen(f"http://{authority}{path}", timeout=5) as answer:
        return answer.status, answer.read().decode()


def by_http_client(host, port, path, at=None):
    connection = http.client.HTTPConnection(at or host, port, timeout=5)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def main():
    if len(sys.argv) != 5:
        sys.exit("usage: client.py HOST PORT PATH any|4|6")
    host, port, path, family = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if family == "any":
        asked = {"urllib": by_urllib(host, port, path), "http.client": by_http_client(host, port, path)}
    else:
        of = {"4": socket.AF_INET, "6": socket.AF_INET6}[family]
        at = socket.getaddrinfo(host, port, of, socket.SOCK_STREAM)[0][4][0]
        asked = {"http.client": by_http_client(host, port, path, at)}
    for name, (status, body) in asked.items():
        print(f"== {name} {status}\n{body}")


main()
