package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/load"
)

const (
	loadLong = `Send metrics, logs or traces to an OTLP/HTTP endpoint at a rate, as applications
do, and tell how many were taken and how long it took. What is answered 429, 502,
503 or 504, or not at all, is sent again. An agent's endpoint shows what signing
costs, a gateway's or collector's whether it keeps up.

The exit code is 1 when an item was refused or not taken in the time.`

	loadExample = `  telemark load --endpoint http://localhost:4318
  telemark load --endpoint http://localhost:4318 --signal logs --rate 5000 --items 100 --duration 1m
  telemark load --endpoint https://gateway:4318 --ca certs/ca.crt --rate 0 --workers 8 --output json`
)

type loadOptions struct {
	load.Options
	signal string
	ca     string
}

func newLoad() *cobra.Command {
	var o loadOptions
	cmd := &cobra.Command{
		Use:     "load",
		Short:   "Send telemetry at a rate and measure how it is taken",
		Long:    loadLong,
		Example: loadExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Endpoint, "endpoint", "", "base URL of an OTLP/HTTP receiver, such as http://localhost:4318")
	f.StringVar(&o.signal, "signal", string(load.Metrics), "metrics, logs or traces")
	f.Float64Var(&o.Rate, "rate", 1000, "items a second; 0 sends as fast as they are taken")
	f.IntVar(&o.PerRequest, "items", 100, "items in a request, 1 to 10000")
	f.IntVar(&o.Workers, "workers", 4, "requests at a time, 1 to 256")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "how long, 1s to 24h")
	f.StringVar(&o.Service, "service", "telemark-load", "service.name of what is sent")
	f.BoolVar(&o.Gzip, "gzip", false, "compress requests")
	f.StringVar(&o.ca, "ca", "", "file with the authority of the endpoint's certificate; the system's without")
	return cmd
}

func (o *loadOptions) validate() error {
	u, err := url.Parse(o.Endpoint)
	if o.Endpoint == "" || err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		return fmt.Errorf("--endpoint %.100q: want an http or https URL, such as http://localhost:4318", o.Endpoint)
	}
	o.Endpoint = strings.TrimRight(o.Endpoint, "/")
	for _, path := range []string{"/v1/metrics", "/v1/logs", "/v1/traces"} {
		if base, ok := strings.CutSuffix(o.Endpoint, path); ok {
			return fmt.Errorf("--endpoint %.100q: want the URL before %s, which --signal adds: %.100s", o.Endpoint, path, base)
		}
	}
	o.Signal = load.Signal(o.signal)
	switch o.Signal {
	case load.Metrics, load.Logs, load.Traces:
	default:
		return fmt.Errorf("--signal %.32q: want metrics, logs or traces", o.signal)
	}
	switch {
	case o.Rate < 0:
		return fmt.Errorf("--rate %v: want 0 or more", o.Rate)
	case o.PerRequest < 1 || o.PerRequest > 10_000:
		return fmt.Errorf("--items %d: want 1 to 10000", o.PerRequest)
	case o.Workers < 1 || o.Workers > 256:
		return fmt.Errorf("--workers %d: want 1 to 256", o.Workers)
	case o.Duration < time.Second || o.Duration > 24*time.Hour:
		return fmt.Errorf("--duration %v: want 1s to 24h", o.Duration)
	case o.Service == "":
		return errors.New("--service is empty")
	}
	return nil
}

func (o *loadOptions) run(cmd *cobra.Command) error {
	if err := o.validate(); err != nil {
		return err
	}
	config, err := (&connection{ca: o.ca}).tls()
	if err != nil {
		return err
	}
	o.Client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: o.Workers,
	}}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return o.send(ctx, cmd)
}

func (o *loadOptions) send(ctx context.Context, cmd *cobra.Command) error {
	r := load.Run(ctx, o.Options, func(now load.Report) {
		say(cmd.ErrOrStderr(), "%3.0fs  %d items accepted, %d retries", now.Elapsed.Seconds(), now.Accepted, now.Retries)
	})
	if err := show(cmd, r, func(w io.Writer) { sayLoad(w, r) }); err != nil {
		return err
	}
	if r.Refused > 0 || r.Lost > 0 || r.Accepted == 0 {
		return errFound
	}
	return nil
}

func sayLoad(w io.Writer, r *load.Report) {
	t := newTable(w, "SIGNAL", "ACCEPTED", "PER SECOND", "REFUSED", "NOT TAKEN", "RETRIES", "P50", "P99", "MAX")
	round := func(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
	t.AppendRow([]any{r.Signal, r.Accepted, fmt.Sprintf("%.0f", r.PerSecond()), r.Refused, r.Lost, r.Retries, round(r.P50), round(r.P99), round(r.Max)})
	t.Render()
	if r.LastError != "" {
		say(w, "\nlast error: %s", r.LastError)
	}
}
