package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/smoke"
)

const (
	smokeLong = `Try a running deployment from outside: health of all three roles, the agent's
status, nonces from the collector and through the gateway, metrics of each type
made on request, their verification at the collector, the gateway's status and,
with --rate-limit, its limit on nonces.

Checks whose address is not given are skipped. Verification is seen on the
collector's admin listener (--admin, with the bearer token of
--admin-token-file). The exit code is 1 when a check failed.`

	smokeExample = `  telemark smoke --agent https://localhost:8442 --gateway https://localhost:8443 --collector https://localhost:8444 \
    --ca telemark-dev/certs/ca.crt --admin http://localhost:8445 --admin-token-file telemark-dev/certs/admin.token
  telemark smoke --gateway https://gateway:8443 --rate-limit --output json`
)

type smokeOptions struct {
	smoke.Options
	ca, cert, key, token string
}

func newSmoke() *cobra.Command {
	var o smokeOptions
	cmd := &cobra.Command{
		Use:     "smoke",
		Short:   "Try a running agent, gateway and collector from outside",
		Long:    smokeLong,
		Example: smokeExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Agent, "agent", "", "URL of the agent's HTTP side")
	f.StringVar(&o.Gateway, "gateway", "", "URL of the gateway's HTTP side")
	f.StringVar(&o.Collector, "collector", "", "URL of the collector's HTTP side")
	f.StringVar(&o.Admin, "admin", "", "URL of the collector's admin listener")
	f.StringVar(&o.token, "admin-token-file", "", "file with its bearer token")
	f.StringVar(&o.ca, "ca", "", "file with the authority of their certificates; the system's without")
	f.StringVar(&o.cert, "cert", "", "client certificate, where one is asked for")
	f.StringVar(&o.key, "key", "", "its key")
	f.BoolVar(&o.RateLimit, "rate-limit", false, "ask for nonces until the gateway has enough")
	f.DurationVar(&o.Patience, "patience", 30*time.Second, "how long metrics may take to be verified")
	return cmd
}

func (o *smokeOptions) run(cmd *cobra.Command) error {
	if err := o.complete(); err != nil {
		return err
	}
	checks := []smoke.Check{} // a list in JSON, also without elements
	asTable := format(cmd.Flag("output").Value.String()) == formatTable
	passed := smoke.Run(cmd.Context(), o.Options, func(c smoke.Check) {
		checks = append(checks, c)
		if asTable {
			say(cmd.OutOrStdout(), "%-7s  %-26s %7s  %s", c.Outcome, c.Name, c.Took.Round(time.Millisecond), c.Detail)
		}
	})
	if err := show(cmd, checks, func(io.Writer) {}); err != nil {
		return err
	}
	if !passed {
		return errFound
	}
	return nil
}

func (o *smokeOptions) complete() error {
	given := false
	for flag, address := range map[string]*string{"agent": &o.Agent, "gateway": &o.Gateway, "collector": &o.Collector, "admin": &o.Admin} {
		if *address == "" {
			continue
		}
		given = true
		u, err := url.Parse(*address)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
			return fmt.Errorf("--%s %.100q: want an http or https URL, such as https://localhost:8442", flag, *address)
		}
		*address = strings.TrimRight(*address, "/")
	}
	if !given {
		return errors.New("smoke needs at least one of --agent, --gateway and --collector")
	}
	if o.token != "" {
		token, err := os.ReadFile(o.token)
		if err != nil {
			return work(fmt.Errorf("--admin-token-file: %w", err))
		}
		o.AdminToken = strings.TrimSpace(string(token))
	}
	config, err := (&connection{ca: o.ca, cert: o.cert, key: o.key}).tls()
	if err != nil {
		return err
	}
	o.Client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment}}
	return nil
}
