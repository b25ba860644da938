package ondemandreceiver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/receiver/ondemandreceiver/internal/metadata"
)

// ondemand is the receiver.
type ondemand struct {
	cfg       *Config
	set       receiver.Settings
	next      consumer.Metrics
	telemetry *metadata.TelemetryBuilder
	report    *receiverhelper.ObsReport
	places    chan struct{} // capacity: requests for metrics at a time
	counts    counts

	// From Start to Shutdown, written by them only.
	started time.Time
	host    map[string]string // of every resource
	signer  signer            // nil without
	server  *http.Server
	maxBody int64
	bodies  *httpd.Bodies // of requests that have no place yet
	done    sync.WaitGroup
}

// counts since the start, for GET /metrics/status.
type counts struct {
	accepted, refused, unavailable, points atomic.Uint64
}

func newReceiver(set receiver.Settings, cfg *Config, next consumer.Metrics) (*ondemand, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	report, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: set.ID, Transport: "http", ReceiverCreateSettings: set,
	})
	if err != nil {
		return nil, err
	}
	return &ondemand{
		cfg: cfg, set: set, next: next, telemetry: telemetry, report: report,
		places: make(chan struct{}, cfg.MaxConcurrent),
	}, nil
}

// Start opens the listener.
func (o *ondemand) Start(ctx context.Context, host component.Host) error {
	var err error
	if o.signer, err = findSigner(host, o.cfg.Signer); err != nil {
		return err
	}
	if o.host, err = o.resource(); err != nil {
		return err
	}
	o.started = time.Now()
	// ToServer writes defaults into what it is given.
	own := o.cfg.ServerConfig
	o.server, err = own.ToServer(ctx, host.GetExtensions(), o.set.TelemetrySettings, o.handler(),
		confighttp.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, message string, status int) {
			fail(w, refuse(reasonOf(status), "%s", message), status)
		}))
	if err != nil {
		return fmt.Errorf("server of `endpoint`: %w", err)
	}
	o.maxBody = own.MaxRequestBodySize
	most := int(min(o.maxBody, math.MaxInt/maxBodies)) * maxBodies
	o.bodies = httpd.NewBodies(most, most)
	ln, err := own.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("listen on `endpoint`: %w", err)
	}
	server := o.server
	o.done.Go(func() {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(fmt.Errorf("serve on `endpoint`: %w", err)))
		}
	})
	return nil
}

// resource is what every resource says.
func (o *ondemand) resource() (map[string]string, error) {
	out := make(map[string]string, len(o.cfg.ResourceAttributes)+1)
	if _, ok := o.cfg.ResourceAttributes[hostName]; !ok {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("the name of this machine (give `resource_attributes` a host.name): %w", err)
		}
		out[hostName] = name
	}
	for k, v := range o.cfg.ResourceAttributes {
		if v != "" {
			out[k] = v
		}
	}
	return out, nil
}

// Shutdown lets running requests end until ctx does.
func (o *ondemand) Shutdown(ctx context.Context) error {
	var err error
	if o.server != nil {
		if err = o.server.Shutdown(ctx); err != nil {
			err = errors.Join(err, o.server.Close())
		}
		o.done.Wait()
	}
	o.telemetry.Shutdown()
	return err
}
