package store

import (
	"errors"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
)

var errClear = errors.New("the store is on another machine, and its address does not say how the way there is protected: " +
	"add sslmode=verify-full (and sslrootcert=FILE), or sslmode=disable where nobody reads along")

// checkTransport refuses a server on another machine when nobody said how it is
// spoken to. PostgreSQL's clients then take TLS when it is offered, from
// anybody, and send everything in the clear when it is not.
func checkTransport(dsn string, config *pgx.ConnConfig) error {
	if os.Getenv("PGSSLMODE") != "" {
		return nil
	}
	if u, err := url.Parse(dsn); err == nil && u.Query().Get("sslmode") != "" {
		return nil
	}
	hosts := []string{config.Host}
	for _, f := range config.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	for _, host := range hosts {
		if !here(host) {
			return errClear
		}
	}
	return nil
}

// here reports whether a host is this machine: a socket, or a loopback address.
func here(host string) bool {
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
