package ondemandreceiver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/telemark-otel/telemark/internal/signing"
	"github.com/telemark-otel/telemark/receiver/ondemandreceiver/internal/metadatatest"
)

// running is a started receiver.
type running struct {
	*ondemand
	t         *testing.T
	url       string
	logs      *observer.ObservedLogs // warnings and worse
	telemetry *componenttest.Telemetry
}

type hostOf map[component.ID]component.Component

func (h hostOf) GetExtensions() map[component.ID]component.Component { return h }

func run(t *testing.T, next consumer.Metrics, change func(*Config), extensions hostOf) *running {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	// The listener does not tell its port, so that one is found beforehand.
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg.NetAddr.Endpoint = ln.Addr().String()
	require.NoError(t, ln.Close())
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.WithoutCancel(t.Context()))) })
	set := metadatatest.NewSettings(tel)
	core, logs := observer.New(zap.WarnLevel)
	set.Logger = zap.New(core)
	o, err := newReceiver(set, cfg, next)
	require.NoError(t, err)
	require.NoError(t, o.Start(t.Context(), extensions))
	t.Cleanup(func() { require.NoError(t, o.Shutdown(context.WithoutCancel(t.Context()))) })
	return &running{ondemand: o, t: t, url: "http://" + cfg.NetAddr.Endpoint, logs: logs, telemetry: tel}
}

func (r *running) do(method, path, contentType, body string) (int, http.Header, []byte) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	require.NoError(r.t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, resp.Header, content
}

func (r *running) generate(body string) (int, []byte) {
	status, _, content := r.do(http.MethodPost, "/metrics/generate", "application/json", body)
	return status, content
}

func read[T any](t *testing.T, content []byte) T {
	t.Helper()
	var v T
	require.NoError(t, json.Unmarshal(content, &v), "%s", content)
	return v
}

func TestSystemMetricsAreInThePipelineWhenTheAnswerComes(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	r := run(t, sink, func(c *Config) { c.ResourceAttributes = map[string]string{"service.name": "edge", "deployment": ""} }, nil)
	status, content := r.generate(`{"metric_type":"system"}`)
	require.Equal(t, http.StatusOK, status, "%s", content)
	got := read[generated](t, content)
	require.Equal(t, "success", got.Status)
	require.Equal(t, sink.DataPointCount(), got.Items)
	require.Len(t, got.PayloadID, 32)

	rm := sink.AllMetrics()[0].ResourceMetrics().At(0)
	require.Equal(t, "edge", str(rm.Resource().Attributes(), "service.name"))
	require.NotEmpty(t, str(rm.Resource().Attributes(), "host.name"))
	require.Equal(t, 2, rm.Resource().Attributes().Len())
	sm := rm.ScopeMetrics().At(0)
	require.Equal(t, got.PayloadID, str(sm.Scope().Attributes(), payloadID))
	names := map[string]pmetric.Metric{}
	for _, m := range sm.Metrics().All() {
		require.NotContains(t, names, m.Name(), "one metric of a name")
		names[m.Name()] = m
	}
	for _, want := range []string{
		"system.uptime", "system.cpu.logical.count", "system.cpu.time", "system.memory.usage", "system.memory.limit",
		"system.memory.utilization", "system.cpu.load_average.1m", "system.network.io",
	} {
		require.Contains(t, names, want)
	}
	cpu := names["system.cpu.time"]
	require.Equal(t, "s", cpu.Unit())
	require.True(t, cpu.Sum().IsMonotonic())
	p := cpu.Sum().DataPoints().At(0)
	require.Positive(t, p.StartTimestamp())
	require.Greater(t, p.Timestamp(), p.StartTimestamp())
	number, ok := p.Attributes().Get("cpu.logical_number")
	require.True(t, ok)
	require.Equal(t, pcommon.ValueTypeInt, number.Type())
	require.Equal(t, "user", str(p.Attributes(), "cpu.mode"))
	require.Positive(t, names["system.memory.limit"].Sum().DataPoints().At(0).IntValue())
}

func str(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.Str()
}

func TestApplicationsNumbersBecomeGaugesAndStringsAttributes(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	r := run(t, sink, nil, nil)
	status, content := r.generate(`{"metric_type":"application","custom_data":{"queue":{"length":42,"load":0.5,"shards":[1,2]},"region":"eu","up":true,"note":null}}`)
	require.Equal(t, http.StatusOK, status, "%s", content)
	require.Equal(t, 4, read[generated](t, content).Items)
	metrics := sink.AllMetrics()[0].ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	var names []string
	for _, m := range metrics.All() {
		names = append(names, m.Name())
		require.Equal(t, pmetric.MetricTypeGauge, m.Type())
		require.Equal(t, 1, m.Gauge().DataPoints().Len())
		require.Equal(t, map[string]any{"region": "eu", "up": true}, m.Gauge().DataPoints().At(0).Attributes().AsRaw())
	}
	require.Equal(t, []string{"queue.length", "queue.load", "queue.shards.0", "queue.shards.1"}, names)
	require.Equal(t, int64(42), metrics.At(0).Gauge().DataPoints().At(0).IntValue())
	require.Equal(t, 0.5, metrics.At(1).Gauge().DataPoints().At(0).DoubleValue())
}

func TestBadRequestsAreRefusedWithTheirReason(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	r := run(t, sink, func(c *Config) {
		c.Application = ApplicationConfig{MaxDepth: 3, MaxValues: 4, MaxKey: 16, MaxString: 8}
		c.MaxRequestBodySize = 2000
	}, nil)
	for name, c := range map[string]struct {
		body   string
		reason reason
	}{
		"no JSON":               {`{`, reasonInvalid},
		"empty":                 {``, reasonInvalid},
		"a list":                {`[]`, reasonInvalid},
		"two values":            {`{"metric_type":"system"}{}`, reasonInvalid},
		"member in capitals":    {`{"Metric_Type":"system"}`, reasonInvalid},
		"member twice":          {`{"metric_type":"system","metric_type":"system"}`, reasonInvalid},
		"unknown member":        {`{"metric_type":"system","x":1}`, reasonInvalid},
		"no type":               {`{}`, reasonTypeUnknown},
		"unknown type":          {`{"metric_type":"disk"}`, reasonTypeUnknown},
		"data for the system":   {`{"metric_type":"system","custom_data":{}}`, reasonDataInvalid},
		"no data":               {`{"metric_type":"application"}`, reasonDataMissing},
		"null":                  {`{"metric_type":"application","custom_data":null}`, reasonDataInvalid},
		"a number":              {`{"metric_type":"application","custom_data":1}`, reasonDataInvalid},
		"no number":             {`{"metric_type":"application","custom_data":{"a":"b"}}`, reasonDataMissing},
		"too deep":              {`{"metric_type":"application","custom_data":{"a":{"b":{"c":{"d":1}}}}}`, reasonDataTooDeep},
		"too many":              {`{"metric_type":"application","custom_data":{"a":[1,2,3,4,5]}}`, reasonDataTooLarge},
		"long name":             {`{"metric_type":"application","custom_data":{"aaaaaaaa":{"bbbbbbbb":1}}}`, reasonDataTooLarge},
		"long string":           {`{"metric_type":"application","custom_data":{"a":1,"b":"123456789"}}`, reasonDataTooLarge},
		"empty name":            {`{"metric_type":"application","custom_data":{"":1}}`, reasonDataInvalid},
		"name of control":       {`{"metric_type":"application","custom_data":{"a\nb":1}}`, reasonDataInvalid},
		"number too large":      {`{"metric_type":"application","custom_data":{"a":1e999}}`, reasonDataInvalid},
		"one name for two":      {`{"metric_type":"application","custom_data":{"a.b":1,"a":{"b":2}}}`, reasonDataInvalid},
		"name twice in nested":  {`{"metric_type":"application","custom_data":{"a":{"b":1,"b":2}}}`, reasonInvalid},
		"deeper than the stack": {`{"metric_type":"application","custom_data":` + strings.Repeat(`[`, 900) + strings.Repeat(`]`, 900) + `}`, reasonInvalid},
		"too large":             {`{"metric_type":"` + strings.Repeat("x", 3000) + `"}`, reasonTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			status, content := r.generate(c.body)
			got := read[refused](t, content)
			require.Equal(t, c.reason, got.Reason, "%s", got.Error)
			require.Equal(t, statusOf(c.reason), status)
			require.Equal(t, "agent", got.RejectedBy)
		})
	}
	require.Zero(t, sink.DataPointCount())
}

func TestOtherPathsMethodsAndTypesAreRefused(t *testing.T) {
	r := run(t, consumertest.NewNop(), nil, nil)
	status, _, content := r.do(http.MethodGet, "/metrics", "", "")
	require.Equal(t, http.StatusNotFound, status)
	require.Equal(t, reasonNotFound, read[refused](t, content).Reason)
	status, header, content := r.do(http.MethodGet, "/metrics/generate", "", "")
	require.Equal(t, http.StatusMethodNotAllowed, status)
	require.Equal(t, "POST", header.Get("Allow"))
	require.Equal(t, reasonMethodNotAllowed, read[refused](t, content).Reason)
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
		status, _, content = r.do(http.MethodPost, "/metrics/generate", kind, `{"metric_type":"system"}`)
		require.Equal(t, http.StatusUnsupportedMediaType, status, "a form of a foreign page has such a type")
		require.Equal(t, reasonMediaType, read[refused](t, content).Reason)
	}
}

func TestPipelinesRefusalComesBackWithItsCode(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		reason reason
	}{
		"permanent": {consumererror.NewPermanent(errors.New("bad")), reasonRefused},
		"later":     {errors.New("the queue is full"), reasonUnavailable},
		"time":      {context.DeadlineExceeded, reasonTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, consumertest.NewErr(c.err), nil, nil)
			status, header, content := r.do(http.MethodPost, "/metrics/generate", "application/json", `{"metric_type":"application","custom_data":{"a":1}}`)
			require.Equal(t, statusOf(c.reason), status)
			require.Equal(t, c.reason, read[refused](t, content).Reason)
			require.Equal(t, status == http.StatusServiceUnavailable, header.Get("Retry-After") != "")
		})
	}
}

func TestPipelineThatHangsIsNotWaitedForWithoutEnd(t *testing.T) {
	hang, err := consumer.NewMetrics(func(ctx context.Context, _ pmetric.Metrics) error {
		<-ctx.Done()
		return ctx.Err()
	})
	require.NoError(t, err)
	r := run(t, hang, func(c *Config) { c.Timeout = 100 * time.Millisecond }, nil)
	status, content := r.generate(`{"metric_type":"application","custom_data":{"a":1}}`)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, reasonTimeout, read[refused](t, content).Reason)
}

func TestRequestsAtATimeAreBounded(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	slow, err := consumer.NewMetrics(func(context.Context, pmetric.Metrics) error {
		entered <- struct{}{}
		<-leave
		return nil
	})
	require.NoError(t, err)
	r := run(t, slow, func(c *Config) { c.MaxConcurrent = 1 }, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		status, _ := r.generate(`{"metric_type":"application","custom_data":{"a":1}}`)
		require.Equal(t, http.StatusOK, status)
	})
	<-entered
	status, content := r.generate(`{"metric_type":"application","custom_data":{"a":1}}`)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, reasonBusy, read[refused](t, content).Reason)
	close(leave)
	wg.Wait()
	_, _, content = r.do(http.MethodGet, "/metrics/status", "", "")
	s := read[Status](t, content)
	require.Equal(t, Requests{Accepted: 1, Unavailable: 1, Points: 1}, s.Requests)
	require.Nil(t, s.Signer)
}

// fake stands in for a signing extension.
type fake struct {
	extension.Extension
	status signing.Status
}

func (f *fake) Status() signing.Status { return f.status }

func TestStatusAndHealthTellHowTheSignerStands(t *testing.T) {
	id := component.MustNewID("tpm")
	f := &fake{status: signing.Status{State: "ready", KID: "000b", Epoch: 3, Seq: 7}}
	r := run(t, consumertest.NewNop(), func(c *Config) { c.Signer = &id }, hostOf{id: f, component.MustNewID("other"): componentNop{}})
	_, _, content := r.do(http.MethodGet, "/metrics/status", "", "")
	require.Equal(t, &f.status, read[Status](t, content).Signer)
	status, _, content := r.do(http.MethodGet, "/health", "", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, health{Status: "ok", Signer: "ready"}, read[health](t, content))

	f.status = signing.Status{State: "ready", Enrolment: &signing.Enrolment{State: "revoked", Error: "the machine was revoked"}}
	status, _, content = r.do(http.MethodGet, "/health", "", "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, health{Status: "degraded", Signer: "ready", Error: "the machine was revoked"}, read[health](t, content))
}

type componentNop struct {
	component.StartFunc
	component.ShutdownFunc
}

func TestSignerThatIsNotThereIsNamed(t *testing.T) {
	id := component.MustNewID("tpm")
	_, err := findSigner(componenttest.NewNopHost(), &id)
	require.ErrorContains(t, err, "`signer` names \"tpm\"")
	_, err = findSigner(hostOf{id: componentNop{}}, &id)
	require.ErrorContains(t, err, "no state of signing")
	found, err := findSigner(hostOf{id: &fake{}, component.MustNewIDWithName("tpm", "two"): &fake{}}, nil)
	require.NoError(t, err)
	require.Nil(t, found, "which of two is meant cannot be known")
}

func TestEveryReasonHasAStatusOfItsKind(t *testing.T) {
	for _, r := range []reason{reasonBusy, reasonSystem, reasonUnavailable, reasonTimeout} {
		require.Equal(t, http.StatusServiceUnavailable, statusOf(r))
	}
	require.Equal(t, http.StatusBadRequest, statusOf(reasonRefused))
	require.Equal(t, http.StatusForbidden, statusOf(reasonForeignHost))
}
