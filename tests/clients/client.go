// Asks by net/http; which resolver looks the name up is for GODEBUG=netdns=go|cgo to say.
//
// Usage: client HOST PORT PATH any|4|6. Prints `== LIBRARY STATUS` and the body.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: client HOST PORT PATH any|4|6")
		os.Exit(2)
	}
	network := map[string]string{"any": "tcp", "4": "tcp4", "6": "tcp6"}[os.Args[4]]
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if network != "tcp" {
		dialer := &net.Dialer{Timeout: 5 * time.Second}
		transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		}
	}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	host := os.Args[1]
	if os.Args[2] != "80" {
		host = net.JoinHostPort(host, os.Args[2])
	}
	answer, err := client.Get("http://" + host + os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("== net/http %d\n%s\n", answer.StatusCode, body)
}
