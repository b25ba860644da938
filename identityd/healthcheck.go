package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/identityd/internal/config"
	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

const healthLong = `Ask an identityd whether it is there, for containers and scripts: exit code 0
when it serves, 1 when it does not. What keeps its instance from running as it
should is printed; with --strict that is exit code 1 too. Without --url the one of
this machine is asked, as the variables of serve describe it.`

func newHealthcheck() *cobra.Command {
	c := &config.Config{}
	var url string
	var strict bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "healthcheck",
		Short:   "Ask an identityd whether it is there",
		Long:    healthLong,
		Example: "  identityd healthcheck\n  identityd healthcheck --strict --url http://10.0.0.7:3001",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Variables.Apply(cmd.Flags()); err != nil {
				return err
			}
			if url == "" {
				var err error
				if url, err = ownURL(c.Listen); err != nil {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			answer, err := daemon.Ask(ctx, client, strings.TrimRight(url, "/")+api.PathHealth)
			if err != nil {
				return daemon.Failed(err)
			}
			daemon.Say(cmd.OutOrStdout(), "%s", answer)
			var h api.Health
			if err := json.Unmarshal([]byte(answer), &h); err != nil || h.Status == "" {
				return daemon.Failed(errors.New("that is no answer of an identityd"))
			}
			if strict && h.Status != api.HealthOK {
				return daemon.Failed(fmt.Errorf("the instance is %.32q", h.Status))
			}
			return nil
		},
	}
	config.Flags(cmd.Flags(), c)
	for _, name := range daemon.Names(cmd.Flags()) {
		if name != "listen" {
			_ = cmd.Flags().MarkHidden(name) // fails for flags that do not exist
		}
	}
	cmd.Flags().StringVar(&url, "url", "", "of the service, such as http://10.0.0.7:3001")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail when anything keeps the instance from running as it should")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait")
	return cmd
}

// ownURL is where a listener of this machine is asked.
func ownURL(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("--listen %.128q: want HOST:PORT", listen)
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port), nil
}
