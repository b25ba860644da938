package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/registryd/internal/config"
)

const healthLong = `Ask a registry whether it is there, for containers and scripts: exit code 0 when
it is, 1 when it is not. Without --url the registry of this machine is asked, as
the variables of serve describe it; its certificate is then the one in --tls-cert.`

func newHealthcheck() *cobra.Command {
	c := &config.Config{}
	var url, ca string
	var ready bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "healthcheck",
		Short:   "Ask a registry whether it is there",
		Long:    healthLong,
		Example: "  registryd healthcheck\n  registryd healthcheck --ready --url https://registry.example:3000 --ca ca.crt",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.FromEnvironment(cmd.Flags()); err != nil {
				return err
			}
			client, base, err := checker(c, url, ca)
			if err != nil {
				return err
			}
			path := "/health"
			if ready {
				path = "/ready"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			answer, err := daemon.Ask(ctx, client, base+path)
			if err != nil {
				return daemon.Failed(err)
			}
			daemon.Say(cmd.OutOrStdout(), "%s", answer)
			return nil
		},
	}
	config.Flags(cmd.Flags(), c)
	for _, name := range daemon.Names(cmd.Flags()) {
		if name != "listen" && name != "tls-cert" {
			_ = cmd.Flags().MarkHidden(name) // fails for flags that do not exist
		}
	}
	cmd.Flags().StringVar(&url, "url", "", "of the registry, such as https://registry.example:3000")
	cmd.Flags().StringVar(&ca, "ca", "", "authorities of its certificate, PEM; the system's without")
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether it can serve: store, key and collateral too")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait")
	return cmd
}

// checker returns a client, and the URL to ask.
func checker(c *config.Config, url, ca string) (*http.Client, string, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		b, err := os.ReadFile(ca)
		if err != nil {
			return nil, "", fmt.Errorf("--ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(b) {
			return nil, "", fmt.Errorf("--ca %s holds no certificate", ca)
		}
	}
	if url == "" {
		host, port, err := net.SplitHostPort(c.Address())
		if err != nil {
			return nil, "", fmt.Errorf("--listen %.128q: want HOST:PORT", c.Listen)
		}
		if host == "" || host == "0.0.0.0" || host == "::" {
			host = "127.0.0.1"
		}
		url = "http://" + net.JoinHostPort(host, port)
		if c.TLSCert != "" {
			url = "https://" + net.JoinHostPort(host, port)
			if ca == "" {
				if err := pinLeaf(conf, c.TLSCert); err != nil {
					return nil, "", err
				}
			}
		}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}, strings.TrimRight(url, "/"), nil
}

// pinLeaf accepts exactly the certificate in a file: it need not be for the
// loopback address.
func pinLeaf(conf *tls.Config, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--tls-cert: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fmt.Errorf("--tls-cert %s holds no certificate", file)
	}
	conf.InsecureSkipVerify = true // VerifyConnection compares the whole certificate
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		if !bytes.Equal(s.PeerCertificates[0].Raw, block.Bytes) {
			return errors.New("the certificate is not the one in --tls-cert")
		}
		return nil
	}
	return nil
}
